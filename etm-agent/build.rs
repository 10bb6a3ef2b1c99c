//! Embeds the eBPF object in the agent. Never builds it (that is `cargo xtask build-ebpf`, with another compiler) and
//! never fails without it: an agent without the object says so when it is asked to load it.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-env-changed=ETM_EBPF_OBJECT");
    println!("cargo::rustc-env=ETM_CORE_DIGEST={:016x}", core_digest()?);
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    let usual = usual_object(&out)?;
    let object = env::var_os("ETM_EBPF_OBJECT")
        .filter(|path| !path.is_empty())
        .map_or_else(|| usual.clone(), |path: OsString| PathBuf::from(path));
    let bytes = match fs::read(&object) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    // Cargo takes a file that does not exist for changed at every build, a directory only when something appears in it.
    let watched = if bytes.is_empty() && object == usual { parent(&usual)? } else { object.as_path() };
    println!("cargo::rerun-if-changed={}", watched.display());
    fs::write(out.join("etm.bpf.o"), bytes)
}

/// Fingerprint (FNV-1a) of the sources that a decision follows from: recordings say which code made them.
fn core_digest() -> io::Result<u64> {
    let source = package()?.join("src");
    let mut open = vec![source.join("core"), source.join("types")];
    let mut files = Vec::new();
    while let Some(path) = open.pop() {
        println!("cargo::rerun-if-changed={}", path.display());
        if path.is_dir() {
            for entry in fs::read_dir(&path)? {
                open.push(entry?.path());
            }
        } else {
            files.push(path);
        }
    }
    files.sort();
    let mut digest = 0xCBF2_9CE4_8422_2325_u64;
    for file in files {
        for byte in fs::read(&file)? {
            digest = (digest ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
    }
    Ok(digest)
}

/// `ebpf/etm.bpf.o` in the target directory, where cargo keeps what it knows of the compiler; the tag it leaves there
/// is missing where the directory was made before.
fn usual_object(out: &Path) -> io::Result<PathBuf> {
    let target = out.ancestors().find(|dir| dir.join(".rustc_info.json").is_file());
    let target = match target {
        Some(target) => target.to_path_buf(),
        None => package()?.join("../target"),
    };
    Ok(target.join("ebpf/etm.bpf.o"))
}

/// The package as it lies now: a checkout may have moved since this program was built.
fn package() -> io::Result<PathBuf> {
    Ok(PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or(io::ErrorKind::NotFound)?))
}

fn parent(object: &Path) -> io::Result<&Path> {
    let dir = object.parent().unwrap_or(object);
    fs::create_dir_all(dir)?;
    Ok(dir)
}
