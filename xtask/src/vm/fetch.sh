#!/bin/sh
# Unpacks the kernel that a Debian meta package stands for, and busybox, into a
# directory of their own. Nothing is installed on this machine.
#   sh fetch.sh linux-image-6.12-cloud-amd64 DIRECTORY
set -eu
package=$1
directory=$2

image=$(apt-cache depends --important "$package" | awk '$1 == "Depends:" && $2 ~ /^linux-image-/ { print $2 }')
[ -n "$image" ] || { echo "no package $package here" >&2; exit 1; }

rm -rf "$directory" "$directory.new"
mkdir -p "$directory.new"
cd "$directory.new"
apt-get download "$image" busybox-static
for deb in *.deb; do
    dpkg-deb --extract "$deb" .
    rm "$deb"
done
# Whoever finds the directory finds it whole.
mv "$directory.new" "$directory"
