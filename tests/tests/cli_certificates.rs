//! Certificates in the configuration: what is accepted, and each mistake in one
//! line with its mend.
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use mifsec::config::{Config, PskSource};
use mifsec::ike::peer::LocalAuth;
use mifsec_tests::pki::{Authority, Key, Request};

const NAME: &str = "laptop@example.org";
const WEAK: &str = include_str!("../keys/rsa-1024.pem");

/// A directory with a CA, a certificate and its key; removed when dropped.
struct Files {
    path: PathBuf,
    root: Authority,
}

impl Files {
    fn new(name: &str) -> Self {
        let name = format!("mifsec-certificates-{name}-{}", std::process::id());
        let files = Self {
            path: std::env::temp_dir().join(name),
            root: Authority::root("Root", Key::P256),
        };
        fs::create_dir_all(&files.path).unwrap();
        files.write("ca.pem", &files.root.pem());
        files.issue(&Request::new(Key::P256, NAME));
        files
    }

    fn issue(&self, request: &Request) {
        let issued = self.root.issue(request);
        self.write("laptop.pem", &issued.chain);
        self.write("laptop.key", &issued.key);
        let private = fs::Permissions::from_mode(0o600);
        fs::set_permissions(self.path.join("laptop.key"), private).unwrap();
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path.join(name), text).unwrap();
    }

    fn load(&self, proofs: &str) -> Result<Config, String> {
        let text = format!(
            "[[access]]\ninterface = \"lo\"\n[[peer]]\nname = \"gw\"\nremote = [\"203.0.113.1\"]\n\
             local_id = \"{NAME}\"\nremote_id = \"gw.example.org\"\naddresses = [\"ipv4\"]\n\
             {proofs}\n[[peer.child]]\nname = \"internet\"\nremote_ts = [\"0.0.0.0/0\"]\n"
        );
        let file = self.path.join("mifsec.toml");
        fs::write(&file, text).unwrap();
        Config::load(&file).map_err(|error| {
            let error = error.to_string();
            assert!(!error.contains('\n'), "one line: {error}");
            assert!(error.contains("; "), "says what to do: {error}");
            error.replace(&format!("{}/", self.path.display()), "")
        })
    }

    fn refused(&self, proofs: &str) -> String {
        match self.load(proofs) {
            Ok(_) => panic!("was accepted"),
            Err(error) => error,
        }
    }

    fn warnings(&self) -> Vec<String> {
        self.load(ALL).unwrap().warnings()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

const ALL: &str = "certificate = \"laptop.pem\"\nprivate_key = \"laptop.key\"\nca = \"ca.pem\"";

#[test]
fn a_certificate_with_its_key_and_an_authority_are_accepted() {
    let files = Files::new("good");
    for key in Key::ALL {
        files.issue(&Request::new(key, NAME));
        let config = files.load(ALL).unwrap();
        assert!(matches!(
            config.peers[0].local_auth,
            LocalAuth::Certificate(_)
        ));
        assert_eq!(config.peers[0].ca.as_ref().unwrap().len(), 1);
        assert_eq!(config.warnings(), Vec::<String>::new());
    }
    let other = Authority::root("Other", Key::P384).pem();
    files.write("bundle.pem", &format!("{other}{}", files.root.pem()));
    let several = ALL.replace("\"ca.pem\"", "[\"ca.pem\", \"bundle.pem\"]");
    let config = files.load(&several).unwrap();
    assert_eq!(config.peers[0].ca.as_ref().unwrap().len(), 2, "each once");
}

#[test]
fn what_is_missing_is_named() {
    let files = Files::new("missing");
    let cases = [
        ("ca = \"ca.pem\"", "certificate: is missing"),
        ("certificate = \"laptop.pem\"", "private_key: is missing"),
        ("private_key = \"laptop.key\"", "certificate: is missing"),
        (
            "certificate = \"laptop.pem\"\nprivate_key = \"laptop.key\"",
            "ca: is missing",
        ),
        ("", "psk_file: is missing"),
    ];
    for (proofs, expected) in cases {
        let error = files.refused(proofs);
        assert!(error.contains(expected), "{error}");
    }
    for (name, file) in [
        ("ca", "ca.pem"),
        ("certificate", "laptop.pem"),
        ("private_key", "laptop.key"),
    ] {
        let error = files.refused(&ALL.replace(file, "absent.pem"));
        let expected = format!("{name}: absent.pem cannot be read (No such file");
        assert!(error.contains(&expected), "{error}");
    }
}

#[test]
fn a_file_that_is_something_else_is_named() {
    let files = Files::new("else");
    let swapped = "certificate = \"laptop.key\"\nprivate_key = \"laptop.pem\"\nca = \"ca.pem\"";
    let error = files.refused(swapped);
    assert!(
        error.contains("certificate: laptop.key has no CERTIFICATE in it"),
        "{error}"
    );
    let error = files.refused(&ALL.replace("laptop.key", "ca.pem"));
    assert!(
        error.contains("private_key: ca.pem has no private key in it"),
        "{error}"
    );
    files.write(
        "broken.pem",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    let error = files.refused(&ALL.replace("ca.pem", "broken.pem"));
    assert!(
        error.contains("ca: broken.pem its certificate 1 is not a readable"),
        "{error}"
    );
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    files.write("laptop.key", encrypted);
    let error = files.refused(ALL);
    assert!(error.contains("its private key is encrypted"), "{error}");
    assert!(error.contains("openssl pkey"), "{error}");
}

#[test]
fn a_key_of_another_certificate_is_refused_and_so_is_a_weak_one() {
    let files = Files::new("key");
    let other = files.root.issue(&Request::new(Key::P256, NAME));
    files.write("laptop.key", &other.key);
    let error = files.refused(ALL);
    assert!(
        error.contains("private_key: laptop.key its private key is not of this public key"),
        "{error}"
    );
    assert!(
        error.contains("name the private key this certificate was issued for"),
        "{error}"
    );
    files.write("laptop.key", WEAK);
    let error = files.refused(ALL);
    assert!(error.contains("RSA of less than 2048 bits"), "{error}");
    assert!(!error.contains("MII"), "no key in messages");
}

#[test]
fn an_identity_the_certificate_does_not_have_is_refused_with_those_it_has() {
    let files = Files::new("identity");
    files.issue(&Request::new(Key::P256, "alice@example.org"));
    let error = files.refused(ALL);
    assert!(
        error.contains("local_id: \"laptop@example.org\" is not in laptop.pem"),
        "{error}"
    );
    assert!(error.contains("alice@example.org"), "{error}");
}

#[test]
fn dates_and_a_key_others_can_read_are_warnings() {
    let files = Files::new("warnings");
    let mut request = Request::new(Key::P256, NAME);
    request.validity = [(2010, 1, 1), (2011, 1, 1)];
    files.issue(&request);
    let warnings = files.warnings();
    assert!(warnings[0].contains("expired on 2011-01-01 00:00 UTC; peers will refuse it"));
    request.validity = [(2090, 1, 1), (2091, 1, 1)];
    files.issue(&request);
    assert!(files.warnings()[0].contains("is valid from 2090-01-01 00:00 UTC on only"));
    files.issue(&Request::new(Key::P256, NAME));
    let readable = fs::Permissions::from_mode(0o644);
    fs::set_permissions(files.path.join("laptop.key"), readable).unwrap();
    assert!(files.warnings()[0].contains("laptop.key can be read by others; chmod 600 it"));
}

#[test]
fn a_table_of_secrets_names_its_bad_line_and_takes_distinguished_names_in_quotes() {
    let files = Files::new("table");
    let path = files.path.join("subscribers");
    files.write(
        "subscribers",
        "alice@example.org = a==\n\"C=CH, CN=moon\" = b\n",
    );
    let table = PskSource::read_table(&path).unwrap();
    let key = |id: &str| {
        table
            .get(&id.parse().unwrap())
            .map(|key| key.expose().to_vec())
    };
    assert_eq!(key("alice@example.org"), Some(b"a==".to_vec()));
    assert_eq!(key("c=ch, cn=Moon"), Some(b"b".to_vec()));
    files.write("subscribers", "alice@example.org = topsecret\nbob\n");
    let error = PskSource::read_table(&path).err().unwrap();
    assert!(
        error.contains("subscribers:2 is not `identity = secret`"),
        "{error}"
    );
    assert!(!error.contains("topsecret"));
}
