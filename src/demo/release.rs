//! Archives of releases with their checksums, as a build publishes them.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

/// Writes `archive`, with the one file `release` in it, and `archive.sha256` as `sha256sum` does.
///
/// # Errors
/// The system's.
pub fn publish(archive: &Path, release: &str) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(release.len() as u64);
    header.set_mode(0o644);
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    builder.append_data(&mut header, "release", release.as_bytes())?;
    let bytes = builder.into_inner()?.finish()?;

    if let Some(folder) = archive.parent() {
        fs::create_dir_all(folder)?;
    }
    let name = archive.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let sum: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    fs::File::create(archive)?.write_all(&bytes)?;
    fs::write(archive.with_file_name(format!("{name}.sha256")), format!("{sum}  {name}\n"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn tar_and_sha256sum_accept_it() {
        let dir = tempfile::tempdir().unwrap();
        publish(&dir.path().join("r/shop-2.tar.gz"), "2\n").unwrap();
        let run = |program: &str, args: &[&str]| {
            let mut command = Command::new(program);
            let output = command.args(args).current_dir(dir.path().join("r")).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(run("sha256sum", &["-c", "shop-2.tar.gz.sha256"]), "shop-2.tar.gz: OK\n");
        assert_eq!(run("tar", &["-xzOf", "shop-2.tar.gz", "release"]), "2\n");
    }
}
