//! A guardian and those who speak to it, over a real socket; its peer answers nowhere.

use super::post::Post;
use super::{ExitStatus, Keeper};
use crate::config::{self, Settings};
use crate::core::custody::{Epoch, Joined, Tenure};
use crate::guardian::{
    Change, FromGuardian, Listener, Refused, Route, Speaker, ToGuardian, VERSION, connect, forget, order_off,
};
use crate::runtime::clock::boottime;
use crate::runtime::sessions;
use crate::types::{ExitId, Generation, RouteAttrs};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(5);

struct Guard {
    socket: PathBuf,
    digest: u64,
    end: oneshot::Sender<()>,
    task: JoinHandle<ExitStatus>,
    _directory: tempfile::TempDir,
}

fn settings(directory: &Path) -> Settings {
    let text = config::EXAMPLE
        // A router of this host is taken for the border, which is not announced to unasked.
        .replace("\"10.0.0.1\"", "\"127.0.0.9\"\ninto_border = true")
        .replace("\"10.0.0.3\"", "\"127.0.0.1\"")
        .replacen("# port = 179", "port = 1", 1)
        .replace("# pin_root = \"/sys/fs/bpf/etm/v1\"", &format!("pin_root = \"{}\"", directory.display()));
    let mut settings = config::parse("test", &text).unwrap();
    settings.guardian.socket = directory.join("guardian.sock");
    settings
}

/// A guardian of the system's in this very process: nothing of it is a process of its own.
fn guard() -> Guard {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let socket = settings.guardian.socket.clone();
    let listener = Listener::bind(&socket, false).unwrap();
    let digest = sessions::digest(&settings);
    let post = Post::take(&settings, Keeper::System, listener).unwrap();
    let (end, told) = oneshot::channel();
    let task = tokio::spawn(async move { post.keep(async { drop(told.await) }).await.unwrap() });
    Guard { socket, digest, end, task, _directory: directory }
}

async fn hear(speaker: &mut Speaker) -> Result<FromGuardian, crate::guardian::GuardianError> {
    tokio::time::timeout(PATIENCE, speaker.reader.hear()).await.expect("the guardian says something")
}

async fn agent(guard: &Guard, resume: Option<Epoch>) -> (Speaker, FromGuardian) {
    let mut speaker = connect(&guard.socket).await.unwrap();
    speaker.writer.say(&ToGuardian::Agent { digest: guard.digest, resume }).await.unwrap();
    let answer = hear(&mut speaker).await.unwrap();
    (speaker, answer)
}

async fn joined(guard: &Guard, resume: Option<Epoch>) -> (Speaker, Joined) {
    match agent(guard, resume).await {
        (speaker, FromGuardian::Joined(joined)) => (speaker, joined),
        (_, other) => panic!("{other:?}"),
    }
}

fn decision(generation: u64, count: u8) -> ToGuardian {
    let attrs = Arc::new(RouteAttrs::to_next_hop("192.0.2.1".parse().unwrap()));
    let route = |number| Route {
        prefix: format!("198.18.{number}.0/24").parse().unwrap(),
        exit: ExitId(0),
        attrs: Arc::clone(&attrs),
    };
    ToGuardian::Change(Change {
        fresh: true,
        generation: Generation(generation),
        withdrawn: Vec::new(),
        announced: (0..count).map(route).collect(),
        complete: true,
    })
}

fn lease(span: Duration) -> ToGuardian {
    ToGuardian::Tenure(Tenure::Held { until: boottime() + span, decided: true })
}

async fn wait_held(speaker: &mut Speaker, held: usize) {
    loop {
        match hear(speaker).await.unwrap() {
            FromGuardian::Report(report) if report.held == held => return,
            FromGuardian::Report(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn an_agent_that_another_one_followed_is_told_so_and_not_heard() {
    let guard = guard();
    let (mut old, number) = joined(&guard, None).await;
    old.writer.say(&decision(1, 3)).await.unwrap();
    old.writer.say(&lease(PATIENCE * 10)).await.unwrap();
    wait_held(&mut old, 3).await;
    let (mut new, found) = joined(&guard, None).await;
    assert_eq!(found.held, 3);
    // What the old one writes now, as if it had been stopped until now. The connection may be closed already.
    drop(old.writer.say(&decision(2, 9)).await);
    drop(old.writer.say(&ToGuardian::Tenure(Tenure::Released)).await);
    let last = loop {
        match hear(&mut old).await {
            Ok(FromGuardian::Report(_)) => {}
            other => break other,
        }
    };
    assert!(matches!(last, Ok(FromGuardian::Refused(Refused::Superseded))), "{last:?}");
    assert!(hear(&mut old).await.is_err(), "the connection is closed");
    let (_, answer) = agent(&guard, Some(number.epoch)).await;
    assert_eq!(answer, FromGuardian::Refused(Refused::Superseded), "nor does it come back by the back door");
    new.writer.say(&decision(1, 4)).await.unwrap();
    wait_held(&mut new, 4).await;
    guard.end.send(()).unwrap();
    assert_eq!(guard.task.await.unwrap(), ExitStatus::Done);
}

#[tokio::test]
async fn without_an_agent_everything_ends_with_the_lease_and_can_be_forgotten_before() {
    let guard = guard();
    for (how, ends) in [("lease", Duration::from_millis(600)), ("forgotten", PATIENCE * 10)] {
        let (mut first, _) = joined(&guard, None).await;
        first.writer.say(&decision(1, 3)).await.unwrap();
        first.writer.say(&lease(ends)).await.unwrap();
        wait_held(&mut first, 3).await;
        drop(first);
        if how == "forgotten" {
            // Until the guardian has seen the agent go there is somebody who stands for it.
            tokio::time::timeout(PATIENCE, async {
                loop {
                    assert!(forget(&guard.socket).await.unwrap());
                    if joined(&guard, None).await.1.held == 0 {
                        return;
                    }
                }
            })
            .await
            .unwrap();
        } else {
            tokio::time::sleep(ends + Duration::from_millis(100)).await;
            assert_eq!(joined(&guard, None).await.1.held, 0, "{how}");
        }
    }
}

#[tokio::test]
async fn off_needs_no_agent_and_on_needs_one() {
    let guard = guard();
    let (mut agent, _) = joined(&guard, None).await;
    agent.writer.say(&decision(1, 3)).await.unwrap();
    agent.writer.say(&lease(PATIENCE * 10)).await.unwrap();
    wait_held(&mut agent, 3).await;
    assert!(order_off(&guard.socket).await.unwrap());
    wait_held(&mut agent, 0).await;
    agent.writer.say(&lease(PATIENCE * 20)).await.unwrap();
    agent.writer.say(&ToGuardian::On).await.unwrap();
    wait_held(&mut agent, 3).await;
    guard.end.send(()).unwrap();
    guard.task.await.unwrap();
    assert!(!order_off(&guard.socket).await.unwrap(), "nobody is there any more");
}

#[tokio::test]
async fn an_orderly_stop_of_an_agent_is_confirmed_and_leaves_the_guardian() {
    let guard = guard();
    let (mut first, _) = joined(&guard, None).await;
    first.writer.say(&decision(1, 3)).await.unwrap();
    first.writer.say(&lease(PATIENCE * 10)).await.unwrap();
    wait_held(&mut first, 3).await;
    first.writer.say(&ToGuardian::Stop).await.unwrap();
    loop {
        match hear(&mut first).await.unwrap() {
            // No peer was established: none has anything left.
            FromGuardian::Stopped { confirmed } => break assert!(confirmed),
            FromGuardian::Report(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(joined(&guard, None).await.1.held, 0);
}

#[tokio::test]
async fn bad_words_end_their_connection_and_nothing_else() {
    let guard = guard();
    let (mut agent, _) = joined(&guard, None).await;
    agent.writer.say(&decision(1, 2)).await.unwrap();
    agent.writer.say(&lease(PATIENCE * 10)).await.unwrap();
    wait_held(&mut agent, 2).await;
    let greeting = [&b"ETMG"[..], &VERSION.to_le_bytes(), &[0, 0]].concat();
    let cases: [(&str, Vec<u8>); 6] = [
        ("no greeting of ours", b"GET / HT".to_vec()),
        ("another version", b"ETMG\xff\x7f\0\0".to_vec()),
        ("a frame that is too long", [&greeting[..], &[0xff; 4]].concat()),
        ("a frame that is no value", [&greeting[..], &[3, 0, 0, 0, 0xff, 0xff, 0xff]].concat()),
        ("an empty frame", [&greeting[..], &[0; 4]].concat()),
        ("an order that only an agent may give", [&greeting[..], &[1, 0, 0, 0, 5]].concat()),
    ];
    for (title, bytes) in cases {
        let socket = guard.socket.clone();
        let closed = tokio::task::spawn_blocking(move || {
            let mut stream = UnixStream::connect(socket).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(&bytes).unwrap();
            // To the end, which a guardian that hangs on would not come to.
            stream.read_to_end(&mut Vec::new()).is_ok()
        });
        assert!(closed.await.unwrap(), "{title}");
    }
    let (_, other) = {
        let mut speaker = connect(&guard.socket).await.unwrap();
        speaker.writer.say(&ToGuardian::Agent { digest: 1, resume: None }).await.unwrap();
        let answer = hear(&mut speaker).await.unwrap();
        (speaker, answer)
    };
    assert_eq!(other, FromGuardian::Refused(Refused::OtherConfiguration));
    agent.writer.say(&decision(2, 5)).await.unwrap();
    wait_held(&mut agent, 5).await;
}
