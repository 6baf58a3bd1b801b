//! What the machine itself can be seen to be.

use std::collections::BTreeMap;

/// `hostname`, `kernel`, `arch`, `cpus` and `os`. What cannot be told is left out.
pub(super) fn facts() -> BTreeMap<String, String> {
    let uname = rustix::system::uname();
    let seen = [
        ("hostname", uname.nodename().to_str().ok().map(str::to_owned)),
        ("kernel", uname.release().to_str().ok().map(str::to_owned)),
        ("arch", uname.machine().to_str().ok().map(str::to_owned)),
        ("cpus", std::thread::available_parallelism().ok().map(|count| count.to_string())),
        ("os", os()),
    ];
    seen.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

fn os() -> Option<String> {
    // In this order: os-release(5).
    ["/etc/os-release", "/usr/lib/os-release"]
        .into_iter()
        .find_map(|file| std::fs::read_to_string(file).ok())
        .and_then(|text| os_of(&text))
}

/// ID and VERSION_ID, such as `debian-12`; ID alone where releases have no number
/// (os-release(5): shell assignments, values perhaps in quotes).
fn os_of(text: &str) -> Option<String> {
    let value = |key: &str| {
        text.lines()
            .filter_map(|line| line.trim().split_once('='))
            .find(|(name, _)| *name == key)
            .map(|(_, value)| value.trim_matches(['"', '\'']).to_owned())
            .filter(|value| !value.is_empty())
    };
    let id = value("ID")?;
    Some(match value("VERSION_ID") {
        Some(version) => format!("{id}-{version}"),
        None => id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_are_named_as_they_name_themselves() {
        for (text, expected) in [
            ("NAME=\"Debian\"\nVERSION_ID=\"12\"\nID=debian\n", Some("debian-12")),
            ("ID='arch'\n", Some("arch")),
            ("ID=\"rhel\"\r\nVERSION_ID=9.4\r\n", Some("rhel-9.4")),
            ("VERSION_ID=1\n", None),
        ] {
            assert_eq!(os_of(text).as_deref(), expected, "{text:?}");
        }
    }
}
