//! What comes as text: the config file and requests on the control socket.

use std::path::Path;

use mifsec::config::Config;
use mifsec::control::Request;

/// A config file: a mistake is one line that names the file.
///
/// # Panics
/// When a property does not hold.
pub fn config_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    // A file of the machine as a secret would make the outcome depend on it.
    if ["/dev", "/proc", ".."]
        .iter()
        .any(|path| text.contains(path))
    {
        return;
    }
    // A good secret, gw.psk, is beside the corpora.
    let file = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/mifsec.toml"));
    match Config::parse(file, text) {
        Ok(config) => {
            let _ = config.warnings();
            let _ = config.listed_addresses();
        }
        Err(error) => {
            let said = error.to_string();
            assert!(!said.contains('\n'), "more than one line: {said:?}");
            assert!(said.contains("mifsec.toml"), "no file: {said:?}");
        }
    }
}

/// A line on the control socket.
///
/// # Panics
/// When a property does not hold.
pub fn control_request(data: &[u8]) {
    let Ok(request) = serde_json::from_slice::<Request>(data) else {
        return;
    };
    let line = serde_json::to_string(&request).expect("our own request");
    assert!(!line.contains('\n'));
    let again: Request = serde_json::from_str(&line).expect("our own request");
    assert_eq!(again, request);
}
