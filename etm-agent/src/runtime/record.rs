//! Recording while deciding: the decider hands copies to a thread of its own over a bounded queue. Never waits for the
//! disk: what the queue cannot take is counted, marked in the recording as a gap, and followed by a new keyframe.

use super::clock::boottime;
use crate::config::RecordSettings;
use crate::control::schema::Recording;
use crate::core::controller::{Controller, Outcome};
use crate::core::input::{FibEvent, Input};
use crate::core::record::block::End;
use crate::recording::{Limits, Moment, RecordingError, Writer};
use crate::types::Timestamp;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Inputs that may wait for the disk.
const DEPTH: usize = 8192;

/// Bytes that inputs waiting for the disk may take, about.
const MOST_WAITING: u64 = 64 << 20;

/// How often what is pending is written: what a crash of the machine can cost.
const FLUSH: Duration = Duration::from_secs(1);

/// After a failure of the disk the next attempt is made after this long.
const RETRY: Duration = Duration::from_secs(10);

/// What the decider hands over.
enum Note {
    Keyframe { state: Box<Controller>, at: Moment, lost: u64 },
    Step { now: Timestamp, input: Input, outcome: Box<Outcome>, weight: u64 },
}

/// What both sides know.
#[derive(Debug, Default)]
struct Shared {
    /// Recording is wanted.
    on: AtomicBool,
    /// The disk failed: nothing is to be sent.
    refusing: AtomicBool,
    /// The file is full: a keyframe may begin the next.
    full: AtomicBool,
    /// A keyframe is on its way: another would only cost memory.
    keyframe_waiting: AtomicBool,
    /// Bytes waiting, about.
    waiting: AtomicU64,
    /// Inputs not recorded while recording was on, in all, and since the last keyframe.
    lost: AtomicU64,
    lost_since: AtomicU64,
    shown: Mutex<Shown>,
}

/// What the thread says of itself.
#[derive(Clone, Debug, Default)]
struct Shown {
    file: Option<PathBuf>,
    files: u64,
    bytes: u64,
    inputs: u64,
    error: Option<String>,
}

/// The decider's end.
pub(super) struct Tap {
    to: SyncSender<Note>,
    shared: Arc<Shared>,
    directory: PathBuf,
    /// True while every input since the last keyframe was handed over.
    unbroken: bool,
}

/// The thread's end.
pub(super) struct Recorder {
    from: Receiver<Note>,
    shared: Arc<Shared>,
    writer: Writer,
    retry: Option<Instant>,
}

/// Both ends; recording begins at once where the configuration says so.
pub(super) fn pair(settings: &RecordSettings) -> (Tap, Recorder) {
    let (to, from) = sync_channel(DEPTH);
    let shared = Arc::new(Shared::default());
    shared.on.store(settings.at_start, Ordering::Release);
    let limits = Limits { file_bytes: settings.file_bytes, files: settings.files };
    let writer = Writer::new(settings.directory.clone(), limits);
    let directory = settings.directory.clone();
    let tap = Tap { to, shared: Arc::clone(&shared), directory, unbroken: false };
    (tap, Recorder { from, shared, writer, retry: None })
}

impl Tap {
    /// Before an input is handled: the copy that [`Tap::after`] wants, and a keyframe where one is due.
    pub(super) fn before(&mut self, controller: &Controller, input: &Input) -> Option<Input> {
        if !self.shared.on.load(Ordering::Acquire) {
            self.unbroken = false;
            return None;
        }
        if self.shared.refusing.load(Ordering::Acquire) {
            self.unbroken = false;
        } else if self.keyframe_is_due() {
            self.keyframe(controller);
        }
        if !self.unbroken {
            self.lose();
            return None;
        }
        Some(input.clone())
    }

    /// After it was handled.
    pub(super) fn after(&mut self, now: Timestamp, input: Option<Input>, outcome: &Outcome) {
        let Some(input) = input else { return };
        let weight = weight(&input, outcome);
        self.shared.waiting.fetch_add(weight, Ordering::AcqRel);
        let step = Note::Step { now, input, outcome: Box::new(outcome.clone()), weight };
        if !self.has_room() || self.to.try_send(step).is_err() {
            self.shared.waiting.fetch_sub(weight, Ordering::AcqRel);
            self.unbroken = false;
            self.lose();
        }
    }

    fn keyframe_is_due(&self) -> bool {
        (!self.unbroken || self.shared.full.load(Ordering::Acquire))
            && self.has_room()
            && !self.shared.keyframe_waiting.load(Ordering::Acquire)
    }

    fn has_room(&self) -> bool {
        self.shared.waiting.load(Ordering::Acquire) < MOST_WAITING
    }

    fn lose(&self) {
        self.shared.lost.fetch_add(1, Ordering::AcqRel);
        self.shared.lost_since.fetch_add(1, Ordering::AcqRel);
    }

    fn keyframe(&mut self, controller: &Controller) {
        let at = Moment { boot: boottime(), wall_ns: wall_ns() };
        let lost = self.shared.lost_since.swap(0, Ordering::AcqRel);
        self.shared.keyframe_waiting.store(true, Ordering::Release);
        self.shared.full.store(false, Ordering::Release);
        let note = Note::Keyframe { state: Box::new(controller.clone()), at, lost };
        if self.to.try_send(note).is_ok() {
            self.unbroken = true;
        } else {
            self.shared.keyframe_waiting.store(false, Ordering::Release);
            self.shared.lost_since.fetch_add(lost, Ordering::AcqRel);
        }
    }

    /// Begins or ends recording.
    pub(super) fn switch(&mut self, on: bool) {
        if !self.shared.on.swap(on, Ordering::AcqRel) && on {
            self.shared.lost_since.store(0, Ordering::Release);
        }
        self.unbroken &= on;
    }

    /// For `etm record status`.
    pub(super) fn view(&self) -> Recording {
        let shown = self.shared.shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Recording {
            recording: self.shared.on.load(Ordering::Acquire),
            directory: self.directory.display().to_string(),
            file: shown.file.map(|file| file.display().to_string()),
            files_written: shown.files,
            bytes_written: shown.bytes,
            inputs_recorded: shown.inputs,
            inputs_lost: self.shared.lost.load(Ordering::Acquire),
            error: shown.error,
        }
    }
}

/// Memory of a note, about.
fn weight(input: &Input, outcome: &Outcome) -> u64 {
    let parts = match input {
        Input::Sample(sample) => sample.rows.len(),
        Input::Routes(batch) => batch.changes.len() * 4,
        Input::Fib(FibEvent::Changes(changes)) => changes.len() * 6,
        Input::Released(released) => released.slots.len() + released.rows.len(),
        _ => 1,
    };
    let live = outcome.live.as_ref().map_or(0, |rows| rows.len() * 3);
    let parts = parts + live + outcome.table.len() + outcome.events.len() * 12;
    u64::try_from(parts).unwrap_or(u64::MAX).saturating_mul(32).saturating_add(512)
}

fn wall_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl Recorder {
    /// Writes until the decider is gone.
    pub(super) fn run(mut self) {
        let mut due = Instant::now() + FLUSH;
        loop {
            match self.from.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(note) => self.take(note),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.finish();
                    return;
                }
            }
            if Instant::now() >= due {
                self.each_second();
                due = Instant::now() + FLUSH;
            }
        }
    }

    fn take(&mut self, note: Note) {
        let written = match note {
            Note::Keyframe { state, at, lost } => {
                let written = self.writer.keyframe(&state, at, lost);
                self.shared.keyframe_waiting.store(false, Ordering::Release);
                if written.is_ok() {
                    self.recovered();
                }
                written
            }
            Note::Step { now, input, outcome, weight } => {
                self.shared.waiting.fetch_sub(weight, Ordering::AcqRel);
                if !self.writer.is_open() {
                    // The disk failed after this was handed over.
                    self.shared.lost.fetch_add(1, Ordering::AcqRel);
                    self.shared.lost_since.fetch_add(1, Ordering::AcqRel);
                    return;
                }
                self.writer.entry(now, &input, &outcome)
            }
        };
        self.shared.full.store(self.writer.is_full(), Ordering::Release);
        self.note(written);
    }

    fn each_second(&mut self) {
        let written = self.writer.flush();
        self.note(written);
        if !self.shared.on.load(Ordering::Acquire) {
            self.finish();
        }
        if self.retry.is_some_and(|at| Instant::now() >= at) {
            self.retry = None;
            // The decider answers with a keyframe; whether the disk takes it is the test.
            self.shared.refusing.store(false, Ordering::Release);
        }
        self.show();
    }

    fn finish(&mut self) {
        let lost = self.shared.lost_since.load(Ordering::Acquire);
        let ended = self.writer.close(if lost == 0 { End::Stopped } else { End::Gap { lost } });
        self.note(ended);
        self.show();
    }

    fn note(&mut self, written: Result<(), RecordingError>) {
        let Err(error) = written else { return };
        self.writer.abandon();
        self.shared.refusing.store(true, Ordering::Release);
        self.retry = Some(Instant::now() + RETRY);
        let mut shown = self.shared.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.error.is_none() {
            tracing::error!(%error, "not recording; trying again every {} s", RETRY.as_secs());
        }
        shown.error = Some(error.to_string());
    }

    fn recovered(&mut self) {
        self.retry = None;
        self.shared.refusing.store(false, Ordering::Release);
        let file = self.writer.current().map(|file| file.display().to_string()).unwrap_or_default();
        tracing::info!(file, "recording");
        self.shared.shown.lock().unwrap_or_else(PoisonError::into_inner).error = None;
    }

    fn show(&self) {
        let written = self.writer.written();
        let mut shown = self.shared.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.file = self.writer.current().map(ToOwned::to_owned);
        (shown.files, shown.bytes, shown.inputs) = (written.files, written.bytes, written.inputs);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::decision::Adopted;
    use crate::core::policy::tests::two_exits;
    use crate::core::record::block::{Kind, decode};
    use crate::core::record::entry::Decoder;
    use crate::recording::{Reader, files};
    use std::path::Path;

    fn settings(directory: &Path) -> RecordSettings {
        RecordSettings { directory: directory.to_owned(), at_start: true, file_bytes: 3_000, files: 100 }
    }

    fn controller() -> Controller {
        Controller::new(two_exits(), 64, &Adopted::default(), false)
    }

    fn tick(tap: &mut Tap, controller: &mut Controller) {
        let copy = tap.before(controller, &Input::Tick);
        let now = boottime();
        let outcome = controller.handle(now, Input::Tick);
        tap.after(now, copy, &outcome);
    }

    /// Entries and lost inputs of all files, and how each ended.
    fn read(directory: &Path) -> (u64, u64, Vec<End>) {
        let (mut entries, mut lost, mut ends) = (0, 0, Vec::new());
        for file in files(directory).unwrap() {
            let mut reader = Reader::open(&file).unwrap();
            lost += reader.header().lost;
            reader.state().unwrap();
            let mut decoder = Decoder::new(reader.header().boot);
            while let Some((kind, bytes)) = reader.block().unwrap() {
                match kind {
                    Kind::End => ends.push(decode(&bytes, "the end").unwrap()),
                    _ => {
                        let mut rest = bytes.as_slice();
                        while decoder.read(&mut rest).unwrap().is_some() {
                            entries += 1;
                        }
                    }
                }
            }
        }
        (entries, lost, ends)
    }

    #[test]
    fn everything_is_recorded_across_files_and_the_end_is_marked() {
        let directory = tempfile::tempdir().unwrap();
        let (mut tap, recorder) = pair(&settings(directory.path()));
        let thread = std::thread::spawn(move || recorder.run());
        let mut controller = controller();
        for _ in 0..5_000 {
            tick(&mut tap, &mut controller);
        }
        drop(tap);
        thread.join().unwrap();
        let (entries, lost, ends) = read(directory.path());
        assert_eq!((entries, lost, ends.last()), (5_000, 0, Some(&End::Stopped)));
    }

    #[test]
    fn a_disk_that_stands_still_loses_inputs_and_never_the_decision() {
        let directory = tempfile::tempdir().unwrap();
        let (mut tap, recorder) = pair(&settings(directory.path()));
        let mut controller = controller();
        let most = u64::try_from(DEPTH).unwrap();
        // Nobody takes anything off the queue: the keyframe and all but one place are filled, the rest is lost.
        for _ in 0..most + 100 {
            tick(&mut tap, &mut controller);
        }
        assert_eq!(tap.view().inputs_lost, 101);
        let thread = std::thread::spawn(move || recorder.run());
        let mut more = 0;
        while tap.view().inputs_lost <= 101 + more && more < 1_000_000 {
            // Until there is room again and a new keyframe is taken.
            if tap.unbroken {
                break;
            }
            tick(&mut tap, &mut controller);
            more += 1;
        }
        assert!(tap.unbroken, "it recovers");
        tick(&mut tap, &mut controller);
        let lost_in_all = tap.view().inputs_lost;
        drop(tap);
        thread.join().unwrap();
        let (entries, lost, ends) = read(directory.path());
        assert_eq!(lost, lost_in_all);
        assert_eq!(entries + lost, most + 100 + more + 1);
        assert!(ends.iter().any(|end| matches!(end, End::Gap { .. })), "{ends:?}");
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_told_and_costs_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let in_the_way = directory.path().join("file");
        std::fs::write(&in_the_way, "").unwrap();
        let (mut tap, recorder) = pair(&settings(&in_the_way));
        let thread = std::thread::spawn(move || recorder.run());
        let mut controller = controller();
        while tap.view().error.is_none() {
            tick(&mut tap, &mut controller);
            std::thread::yield_now();
        }
        tick(&mut tap, &mut controller);
        assert!(tap.view().inputs_lost > 0 && tap.view().file.is_none());
        drop(tap);
        thread.join().unwrap();
    }
}
