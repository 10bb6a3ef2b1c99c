//! Removing everything that ETM left in the kernel. Never needs the configuration: the pins tell what there is.

use super::error::DatapathError;
use super::{links, pins};
use etm_common::names;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detached {
    /// Attachments, as "interface index-direction".
    pub links: Vec<String>,
    /// Maps, by name.
    pub maps: Vec<String>,
    /// Directories.
    pub dirs: Vec<PathBuf>,
}

/// Removes links, filters, maps and directories under `pin_root`. Nothing there is as good.
///
/// Refused while an agent holds the root: it would go on believing in what is gone.
pub fn detach(pin_root: &Path) -> Result<Detached, DatapathError> {
    let mut done = Detached::default();
    if !pin_root.exists() {
        return Ok(done);
    }
    let _lock = pins::lock(pin_root)?;
    let dir = pin_root.join(names::LINKS);
    if dir.exists() {
        for place in links::pinned(&dir)? {
            links::detach(place, &dir)?;
            done.links.push(place.label());
        }
        remove_dir(&dir, &mut done)?;
    }
    let maps = [
        names::PREFIX4,
        names::PREFIX6,
        names::DIR24,
        names::DIR6,
        names::NODE,
        names::DEFAULT,
        names::UPLINKS,
        names::NEAR,
        names::COUNT,
        names::UNCOUNTED,
        names::TOTAL,
        names::ROWS,
        names::LEASE,
        names::OFF,
        names::MARKED,
        names::XDP_CALL,
        names::XDP_SEEN,
        names::LOCAL,
        names::LIVE,
    ];
    for map in maps {
        let pin = pin_root.join(map);
        if pin.exists() {
            links::remove_pin(&pin)?;
            done.maps.push(map.to_owned());
        }
    }
    remove_dir(pin_root, &mut done)?;
    // Only the parent that ETM made for itself; another's belongs to whoever configured it.
    if let Some(parent) = pin_root.parent().filter(|_| pin_root == Path::new(names::PIN_ROOT)) {
        match fs::remove_dir(parent) {
            Ok(()) => done.dirs.push(parent.to_path_buf()),
            Err(error) => tracing::debug!(path = %parent.display(), %error, "left in place"),
        }
    }
    Ok(done)
}

fn remove_dir(dir: &Path, done: &mut Detached) -> Result<(), DatapathError> {
    match fs::remove_dir(dir) {
        Ok(()) => {
            done.dirs.push(dir.to_path_buf());
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(cause) => Err(DatapathError::Path { doing: "remove directory", path: dir.to_path_buf(), cause }),
    }
}
