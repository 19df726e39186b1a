#!/bin/busybox sh
# The guest's first and only shell: mounts what tests expect of a host, runs each
# test of /tests/list and powers off.
#
# The first serial port is the kernel's console. The second one carries the output
# of the tests and, around that of each, the lines that `cargo xtask vm` looks for:
#   vm: begin FILE TEST
#   vm: end FILE TEST EXIT-STATUS
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
/bin/busybox --install -s /bin

mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
ip link set lo up

# The kernel loads modules as they are asked for, through /sbin/modprobe. Only a
# device file is not there to be opened before its module is.
modprobe tun

# Which kernel was meant is known from its modules.
export MIFSEC_VM=$(ls /lib/modules) MIFSEC_BIN=/usr/bin/mifsec
exec >/dev/ttyS1 2>&1
while read -r limit file test; do
    echo "vm: begin $file $test"
    # So that the console tells which test a message of the kernel belongs to.
    echo "vm: $file $test" >/dev/kmsg
    timeout -s KILL "$limit" "/tests/$file" --exact "$test" --show-output --test-threads=1 </dev/null
    echo "vm: end $file $test $?"
done </tests/list

poweroff -f
