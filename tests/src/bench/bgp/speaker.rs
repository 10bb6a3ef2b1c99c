//! One BGP peer that feeds: it answers the daemon under test, waits for the word, and writes bytes made beforehand.
//! Never slower than whoever reads: no route is made or looked at here.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::LabError;
use crate::netns::Namespace;

use super::feed;

/// Our keepalives: more often than any hold time used here needs.
const KEEPALIVE: Duration = Duration::from_millis(500);
/// How long a daemon may take to connect.
const CONNECT: Duration = Duration::from_secs(60);

/// What a peer is told to do.
enum Task {
    Write(Arc<Vec<u8>>),
    Close,
}

/// A peer whose session is Established.
pub(super) struct Speaker {
    tasks: Sender<Task>,
    /// When the last task was done.
    done: Receiver<Instant>,
    heard: Arc<Mutex<Vec<Instant>>>,
    writer: Option<JoinHandle<()>>,
}

/// Where peers wait to be connected to.
pub(super) struct Desk {
    listener: TcpListener,
    peer: usize,
    hold_s: u16,
}

impl Desk {
    /// Of `peer`, in `namespace`; it offers `hold_s` as hold time.
    pub(super) fn open(namespace: &Namespace, peer: usize, hold_s: u16) -> Result<Desk, LabError> {
        let address = SocketAddr::from((feed::address(peer), 179));
        let bind = || TcpListener::bind(address).map_err(LabError::io(format!("listen on {address}")));
        let listener = namespace.inside(bind)?;
        listener.set_nonblocking(true).map_err(LabError::io("listen without waiting"))?;
        Ok(Desk { listener, peer, hold_s })
    }

    /// Waits for the daemon and brings the session up.
    pub(super) fn establish(&self) -> Result<Speaker, LabError> {
        let (stream, _) = crate::poll::wait_until("the daemon to connect", CONNECT, || {
            self.listener.accept().map_err(|error| error.to_string())
        })?;
        let what = "bring a feeding session up";
        stream.set_nonblocking(false).map_err(LabError::io(what))?;
        stream.set_nodelay(true).map_err(LabError::io(what))?;
        stream.set_read_timeout(Some(CONNECT)).map_err(LabError::io(what))?;
        greet(&stream, self.peer, self.hold_s).map_err(LabError::io(what))?;
        Ok(Speaker::start(stream))
    }
}

/// OPEN and KEEPALIVE both ways.
fn greet(mut stream: &TcpStream, peer: usize, hold_s: u16) -> std::io::Result<()> {
    stream.write_all(&feed::open(peer, hold_s))?;
    let (mut opened, mut kept) = (false, false);
    while !opened || !kept {
        match read_kind(stream)? {
            1 => {
                opened = true;
                stream.write_all(&feed::keepalive())?;
            }
            4 => kept = true,
            kind => {
                return Err(std::io::Error::new(ErrorKind::InvalidData, format!("a message of type {kind}")));
            }
        }
    }
    Ok(())
}

/// Reads one message and says its type.
fn read_kind(mut stream: &TcpStream) -> std::io::Result<u8> {
    let mut header = [0; 19];
    stream.read_exact(&mut header)?;
    let len = usize::from(u16::from_be_bytes([header[16], header[17]]));
    let mut body = vec![0; len.saturating_sub(header.len())];
    stream.read_exact(&mut body)?;
    Ok(header[18])
}

impl Speaker {
    fn start(stream: TcpStream) -> Speaker {
        let (tasks, todo) = channel();
        let (finished, done) = channel();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ears = Arc::clone(&heard);
        let writer = std::thread::spawn(move || {
            let read = stream.try_clone();
            let reader = read.map(|stream| std::thread::spawn(move || listen(&stream, &ears)));
            write(&stream, &todo, &finished);
            // The reader ends with the connection.
            let _ = stream.shutdown(std::net::Shutdown::Both);
            if let Ok(reader) = reader {
                let _ = reader.join();
            }
        });
        Speaker { tasks, done, heard, writer: Some(writer) }
    }

    /// Begins to write `bytes`.
    pub(super) fn write(&self, bytes: &Arc<Vec<u8>>) {
        // A speaker that is gone shows by `written`.
        let _ = self.tasks.send(Task::Write(Arc::clone(bytes)));
    }

    /// Waits until the last byte was taken by TCP; when that was.
    pub(super) fn written(&self) -> Result<Instant, LabError> {
        self.done.recv().map_err(|_| LabError::Malformed {
            what: "a feeding session".to_owned(),
            detail: "the daemon under test closed it".to_owned(),
        })
    }

    /// When keepalives came.
    pub(super) fn heard(&self) -> Vec<Instant> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Closes the connection; when that was.
    pub(super) fn close(mut self) -> Instant {
        let at = Instant::now();
        let _ = self.tasks.send(Task::Close);
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
        at
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        let _ = self.tasks.send(Task::Close);
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

fn write(mut stream: &TcpStream, todo: &Receiver<Task>, finished: &Sender<Instant>) {
    let keepalive = feed::keepalive();
    loop {
        let result = match todo.recv_timeout(KEEPALIVE) {
            Ok(Task::Write(bytes)) => {
                let written = stream.write_all(&bytes);
                let _ = finished.send(Instant::now());
                written
            }
            Err(RecvTimeoutError::Timeout) => stream.write_all(&keepalive),
            Ok(Task::Close) | Err(RecvTimeoutError::Disconnected) => return,
        };
        if result.is_err() {
            return;
        }
    }
}

fn listen(stream: &TcpStream, heard: &Mutex<Vec<Instant>>) {
    loop {
        match read_kind(stream) {
            Ok(4) => heard.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now()),
            Ok(3) | Err(_) => return,
            Ok(_) => {}
        }
    }
}
