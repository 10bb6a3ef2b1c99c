//! What protects the TCP connection of a session: keys, and how far away the peer may be.
//! Never touches a socket. Secrets come from files that only their owner can read, and are never shown.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Longest key the kernel takes (TCP_MD5SIG_MAXKEYLEN, TCP_AO_MAXKEYLEN).
const LONGEST: usize = 80;
/// Read at most this much: a longer file holds no key.
const LONGEST_FILE: u64 = 256;

/// A key. Shown as dots wherever it is printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(...)")
    }
}

/// Why a key cannot be had from a file.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// open(2) or read(2).
    #[error("reading the key in {path}: {source}; write the key there, alone on one line")]
    Read {
        /// File.
        path: PathBuf,
        /// The kernel's words.
        source: io::Error,
    },
    /// Others could read it.
    #[error("the key in {path} can be read by others (mode {mode:04o}); chmod 600 {path}")]
    Open {
        /// File.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Somebody else could write it.
    #[error(
        "the key in {path} belongs to uid {uid}; only root's and the agent's own are taken: chown {own} {path}"
    )]
    Owner {
        /// File.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
        /// Ours.
        own: u32,
    },
    /// Empty, or longer than the kernel takes.
    #[error("the key in {path} has {length} bytes; 1 to 80 are possible")]
    Length {
        /// File.
        path: PathBuf,
        /// Bytes, the end of the line not counted.
        length: usize,
    },
}

impl Secret {
    /// Reads a key from a file of root or of our own user that only its owner can read; the end of the line does not belong
    /// to it.
    pub fn read(path: &Path) -> Result<Secret, SecretError> {
        let read = |source| SecretError::Read { path: path.into(), source };
        // Of the file that is read, not of one that took its place.
        let mut file = File::open(path).map_err(read)?;
        let found = file.metadata().map_err(read)?;
        let mode = found.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(SecretError::Open { path: path.into(), mode });
        }
        let own = nix::unistd::geteuid().as_raw();
        if found.uid() != 0 && found.uid() != own {
            return Err(SecretError::Owner { path: path.into(), uid: found.uid(), own });
        }
        let mut text = Vec::new();
        // Never more than a key can have, whatever the file is.
        file.by_ref().take(LONGEST_FILE).read_to_end(&mut text).map_err(read)?;
        let end = text.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |last| last + 1);
        Secret::new(&text[..end])
            .ok_or_else(|| SecretError::Length { path: path.into(), length: text[..end].len() })
    }

    /// A key of 1 to 80 bytes.
    pub fn new(key: &[u8]) -> Option<Secret> {
        (1..=LONGEST).contains(&key.len()).then(|| Secret(key.to_vec()))
    }

    /// For the kernel alone.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// How segments are authenticated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    /// Not at all.
    #[default]
    None,
    /// RFC 2385.
    Md5(Secret),
    /// RFC 5925, with one key for both directions.
    Ao {
        /// Master key.
        key: Secret,
        /// SendID and RecvID.
        id: u8,
        /// The kernel's name of the algorithm: `hmac(sha1)`, `cmac(aes128)` (RFC 5926).
        algorithm: String,
    },
}

/// How far away the peer may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// One link for external peers (TTL 1), any distance for internal ones.
    #[default]
    Usual,
    /// At most so many routers away, by the TTL of what we send.
    Multihop(u8),
    /// At most so many hops away, by the TTL of what we receive: nothing from further off is even looked at (RFC 5082).
    Gtsm(u8),
}

/// What protects the connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transport {
    /// Keys.
    pub auth: Auth,
    /// Distance.
    pub reach: Reach,
}

impl Transport {
    /// In words, for operators; nothing of a key.
    pub fn words(&self) -> String {
        let auth = self.kind().unwrap_or("none");
        match self.reach {
            Reach::Gtsm(_) => format!("{auth} gtsm"),
            Reach::Usual | Reach::Multihop(_) => auth.to_owned(),
        }
    }

    /// The kind of authentication; none without.
    pub(super) fn kind(&self) -> Option<&'static str> {
        match self.auth {
            Auth::None => None,
            Auth::Md5(_) => Some("tcp-md5"),
            Auth::Ao { .. } => Some("tcp-ao"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn written(text: &[u8], mode: u32) -> Result<Secret, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        Secret::read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn a_key_is_the_line_in_a_file_that_only_its_owner_reads() {
        assert_eq!(written(b"s3cret\n", 0o600), Ok(Secret(b"s3cret".to_vec())));
        assert_eq!(written(b"s3 cret", 0o400), Ok(Secret(b"s3 cret".to_vec())));
        assert!(written(b"s3cret", 0o640).unwrap_err().contains("mode 0640"));
        assert!(written(b"s3cret", 0o604).unwrap_err().contains("chmod 600"));
        assert!(written(b"\n", 0o600).unwrap_err().contains("has 0 bytes"));
        assert!(written(&[b'x'; 81], 0o600).unwrap_err().contains("has 81 bytes"));
        let missing = Secret::read(Path::new("/nonexistent/key")).unwrap_err().to_string();
        assert!(missing.contains("reading the key in /nonexistent/key"), "{missing}");
    }

    #[test]
    fn a_key_is_never_shown() {
        let secret = Secret::new(b"s3cret").unwrap();
        assert!(!format!("{:?}", Auth::Md5(secret)).contains("s3cret"));
    }
}
