//! The local socket: bound for its owner alone, spoken by the same user or root alone, in frames of bounded length.
//! Never interprets what is said.

use super::process::Process;
use super::wire::{FromGuardian, LONGEST, MAGIC, ToGuardian, VERSION};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// Longest time for the first words of either side, and for one order.
const GREETING: Duration = Duration::from_millis(500);

/// The guardian ends with its agent.
const OF_AGENT: u8 = 1;

/// Why agent and guardian do not understand each other.
#[derive(Debug, thiserror::Error)]
pub enum GuardianError {
    /// The system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Socket {
        /// What was being done.
        doing: &'static str,
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The connection ended or broke.
    #[error("the connection broke: {0}")]
    Broken(#[source] io::Error),
    /// Another user.
    #[error("refused user {uid} (process {pid}): only the same user and root may speak here")]
    Stranger {
        /// Its user.
        uid: u32,
        /// Its process.
        pid: i32,
    },
    /// Not one of us, or not of this version.
    #[error("the other end speaks version {theirs}, this one {VERSION}; restart the guardian")]
    Version {
        /// What it says.
        theirs: u16,
    },
    /// Not a guardian at all.
    #[error("what answers there is not a guardian; set another guardian.socket")]
    NotAGuardian,
    /// Too long for anything that is ever said.
    #[error("a frame of {length} octets was announced; longest is {LONGEST}")]
    TooLong {
        /// Announced.
        length: usize,
    },
    /// Not a value that is ever said.
    #[error("a frame cannot be read: {0}")]
    Form(#[from] postcard::Error),
    /// It hangs.
    #[error("the guardian took the connection and does not answer")]
    Silent,
    /// A process could not be reached.
    #[error("cannot {doing}: {source}")]
    Process {
        /// What was being done.
        doing: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

/// What either end knows of the other before a word is said.
#[derive(Debug)]
pub struct Greeting {
    /// The process at the other end; none where it cannot be held on to.
    pub process: Option<Process>,
    /// Its process id, in our namespace.
    pub pid: i32,
    /// The guardian ends with its agent (as seen by an agent).
    pub of_agent: bool,
}

/// A bound socket; its file is removed when this is dropped.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
    of_agent: bool,
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A connection that was greeted.
#[derive(Debug)]
pub struct Speaker {
    /// Who it is.
    pub greeting: Greeting,
    /// What it says.
    pub reader: Reader,
    /// What it is told.
    pub writer: Writer,
}

impl Listener {
    /// Binds the socket in place of whatever is there: the caller made sure that no other guardian runs.
    pub fn bind(path: &Path, of_agent: bool) -> Result<Listener, GuardianError> {
        let failed = |doing| move |source| GuardianError::Socket { doing, path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(failed("make the directory of"))?;
        }
        // Under another name until its permissions are right.
        let mut other = path.as_os_str().to_owned();
        other.push(".new");
        let other = PathBuf::from(other);
        let _ = std::fs::remove_file(&other);
        let listener = UnixListener::bind(&other).map_err(failed("bind"))?;
        std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o600))
            .and_then(|()| std::fs::rename(&other, path))
            .map_err(failed("put in place"))?;
        Ok(Listener { listener, path: path.to_owned(), of_agent })
    }

    /// The next connection. Whether it may speak is found out by [`Arrival::greet`], at its own pace.
    pub async fn accept(&self) -> Result<Arrival, GuardianError> {
        let (stream, _) = self.listener.accept().await.map_err(GuardianError::Broken)?;
        Ok(Arrival { stream, flags: if self.of_agent { OF_AGENT } else { 0 } })
    }
}

/// A connection that nobody has looked at yet.
#[derive(Debug)]
pub struct Arrival {
    stream: UnixStream,
    flags: u8,
}

impl Arrival {
    /// Refuses strangers and other versions.
    pub async fn greet(self) -> Result<Speaker, GuardianError> {
        greet(self.stream, self.flags).await
    }
}

/// Connects to a guardian.
pub async fn connect(path: &Path) -> Result<Speaker, GuardianError> {
    let stream = UnixStream::connect(path).await.map_err(|source| GuardianError::Socket {
        doing: "reach a guardian at",
        path: path.to_owned(),
        source,
    })?;
    greet(stream, 0).await
}

/// Tells a guardian to withdraw everything and to stay so. False where none is there.
pub async fn order_off(path: &Path) -> Result<bool, GuardianError> {
    Ok(order(path, &ToGuardian::Off).await?.is_some())
}

/// Tells a guardian to withdraw what an agent left; one that lives for its agent ends. False where none is there.
pub async fn forget(path: &Path) -> Result<bool, GuardianError> {
    let Some(greeting) = order(path, &ToGuardian::Forget).await? else { return Ok(false) };
    if let Some(process) = greeting.process.filter(|_| greeting.of_agent) {
        process.terminate().map_err(|source| GuardianError::Process { doing: "end the guardian", source })?;
    }
    Ok(true)
}

async fn order(path: &Path, order: &ToGuardian) -> Result<Option<Greeting>, GuardianError> {
    let mut speaker = match connect(path).await {
        Ok(speaker) => speaker,
        Err(GuardianError::Socket { source, .. })
            if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    speaker.writer.say(order).await?;
    let answer = timeout(GREETING, speaker.reader.hear::<FromGuardian>());
    match answer.await.map_err(|_| GuardianError::Silent)?? {
        FromGuardian::Done => Ok(Some(speaker.greeting)),
        _ => Err(GuardianError::NotAGuardian),
    }
}

/// Both sides send the preamble and then wait for the other's: who answers was alive when its process was looked up, so
/// that process is the one which speaks.
async fn greet(stream: UnixStream, flags: u8) -> Result<Speaker, GuardianError> {
    let credentials = stream.peer_cred().map_err(GuardianError::Broken)?;
    let (uid, pid) = (credentials.uid(), credentials.pid().unwrap_or(0));
    if uid != 0 && uid != rustix::process::geteuid().as_raw() {
        return Err(GuardianError::Stranger { uid, pid });
    }
    let process = Process::find(pid);
    let (reader, writer) = stream.into_split();
    let (mut reader, mut writer) = (Reader { reader }, Writer { writer });
    let [low, high] = VERSION.to_le_bytes();
    let [m0, m1, m2, m3] = MAGIC;
    let ours = [m0, m1, m2, m3, low, high, flags, 0];
    writer.writer.write_all(&ours).await.map_err(GuardianError::Broken)?;
    let mut theirs = [0_u8; 8];
    timeout(GREETING, reader.reader.read_exact(&mut theirs))
        .await
        .map_err(|_| GuardianError::Silent)?
        .map_err(GuardianError::Broken)?;
    let [m0, m1, m2, m3, low, high, flags, _] = theirs;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(GuardianError::NotAGuardian);
    }
    let version = u16::from_le_bytes([low, high]);
    let greeting = Greeting { process, pid, of_agent: flags & OF_AGENT != 0 };
    if version != VERSION {
        replace_other_version(&greeting);
        return Err(GuardianError::Version { theirs: version });
    }
    Ok(Speaker { greeting, reader, writer })
}

/// A guardian of another version that lives for its agent is of no use to this one: it withdraws and ends, and the next
/// is started from this binary.
fn replace_other_version(greeting: &Greeting) {
    if let Some(process) = greeting.process.as_ref().filter(|_| greeting.of_agent)
        && let Err(error) = process.terminate()
    {
        tracing::error!(%error, pid = greeting.pid, "a guardian of another version cannot be ended");
    }
}

/// The receiving half.
#[derive(Debug)]
pub struct Reader<R = OwnedReadHalf> {
    reader: R,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Of what comes after the preamble.
    pub fn new(reader: R) -> Self {
        Self { reader }
    }

    /// The next frame. Not to be dropped half way: the rest of the frame would be taken for the next one.
    pub async fn hear<T: DeserializeOwned>(&mut self) -> Result<T, GuardianError> {
        let mut length = [0_u8; 4];
        self.reader.read_exact(&mut length).await.map_err(GuardianError::Broken)?;
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > LONGEST {
            return Err(GuardianError::TooLong { length });
        }
        // Grows with what arrives, not with what was announced.
        let mut bytes = Vec::with_capacity(length.min(64 * 1024));
        let wanted = u64::try_from(length).unwrap_or(u64::MAX);
        (&mut self.reader).take(wanted).read_to_end(&mut bytes).await.map_err(GuardianError::Broken)?;
        if bytes.len() < length {
            return Err(GuardianError::Broken(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(postcard::from_bytes(&bytes)?)
    }
}

/// The sending half.
#[derive(Debug)]
pub struct Writer {
    writer: OwnedWriteHalf,
}

impl Writer {
    /// Sends one frame; waits while the other end does not read.
    pub async fn say<T: Serialize>(&mut self, value: &T) -> Result<(), GuardianError> {
        let mut frame = postcard::to_extend(value, vec![0_u8; 4])?;
        let length = frame.len() - 4;
        let announced = u32::try_from(length).map_err(|_| GuardianError::TooLong { length })?;
        if length > LONGEST {
            return Err(GuardianError::TooLong { length });
        }
        for (place, octet) in frame.iter_mut().zip(announced.to_le_bytes()) {
            *place = octet;
        }
        self.writer.write_all(&frame).await.map_err(GuardianError::Broken)
    }
}
