//! The compiler and the linker for eBPF, by either of two routes, and whether they fit together.
//!
//! * *debian*: the distribution's `/usr/bin/rustc` with its prebuilt `core` for BPF. No download beyond packages.
//! * *rustup*: a nightly toolchain with `rust-src`, which builds `core` itself.
//!
//! Only looks; never installs (that is `setup`). Both need a `bpf-linker` whose LLVM can read the compiler's bitcode.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{self, Error, Result};

/// The linker version that the recipe was proved with.
pub(crate) const LINKER_VERSION: &str = "0.13.0";
/// LLVM majors that this version of bpf-linker has a feature for.
pub(crate) const LINKER_LLVM: std::ops::RangeInclusive<u32> = 21..=23;
/// Chooses the route where both are possible: `debian` or `rustup`.
pub(crate) const ROUTE_VARIABLE: &str = "ETM_EBPF_ROUTE";

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_RUSTLIB: &str = "/usr/lib/rustlib";

/// The BPF target with the byte order of this machine, on which the program will run.
pub(crate) const TARGET: &str =
    if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };

/// Which compiler builds the eBPF program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// The distribution's compiler with prebuilt core.
    Debian,
    /// Nightly with rust-src.
    Rustup,
}

/// A compiler that can produce BPF.
#[derive(Debug)]
pub(crate) struct Compiler {
    /// How it was found.
    pub(crate) route: Route,
    /// `rustc 1.96.0` and so on.
    pub(crate) release: String,
    /// Major version of the LLVM it writes bitcode with.
    pub(crate) llvm: u32,
}

/// A bpf-linker that was found.
#[derive(Debug)]
pub(crate) struct Linker {
    /// The program.
    pub(crate) path: PathBuf,
    /// Major version of the LLVM it is linked with; none if linked statically.
    pub(crate) llvm: Option<u32>,
}

/// The route that the environment asks for, if it asks.
pub(crate) fn wanted_route() -> Result<Option<Route>> {
    match std::env::var(ROUTE_VARIABLE).as_deref() {
        Err(_) | Ok("") => Ok(None),
        Ok("debian") => Ok(Some(Route::Debian)),
        Ok("rustup") => Ok(Some(Route::Rustup)),
        Ok(other) => Err(Error::Content {
            path: ROUTE_VARIABLE.into(),
            what: format!("`{other}` is no route; use debian or rustup, or unset it"),
        }),
    }
}

/// The compiler to use, Debian's first because it needs no download; none if there is none yet.
pub(crate) fn find_compiler() -> Result<Option<Compiler>> {
    Ok(match wanted_route()? {
        Some(Route::Debian) => debian_compiler()?,
        Some(Route::Rustup) => rustup_compiler()?,
        None => match debian_compiler()? {
            Some(compiler) => Some(compiler),
            None => rustup_compiler()?,
        },
    })
}

fn debian_compiler() -> Result<Option<Compiler>> {
    let core = Path::new(DEBIAN_RUSTLIB).join(TARGET).join("lib");
    if !Path::new(DEBIAN_RUSTC).is_file() || !core.is_dir() {
        return Ok(None);
    }
    let answer = process::output(Command::new(DEBIAN_RUSTC).arg("-vV"))?;
    compiler_from(Route::Debian, &answer).map(Some)
}

fn rustup_compiler() -> Result<Option<Compiler>> {
    if process::find("rustup").is_none() {
        return Ok(None);
    }
    // Fails when there is no nightly: that is an answer, not an error.
    let Ok(sysroot) =
        process::output(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]))
    else {
        return Ok(None);
    };
    if !Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core").is_dir() {
        return Ok(None);
    }
    let answer = process::output(Command::new("rustup").args(["run", "nightly", "rustc", "-vV"]))?;
    compiler_from(Route::Rustup, &answer).map(Some)
}

fn compiler_from(route: Route, answer: &str) -> Result<Compiler> {
    let field = |name: &str| answer.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let release = field("release:");
    let llvm = field("LLVM version:")
        .and_then(|version| version.split('.').next())
        .and_then(|major| major.parse().ok());
    match (release, llvm) {
        (Some(release), Some(llvm)) => Ok(Compiler { route, release: format!("rustc {release}"), llvm }),
        _ => Err(Error::Answer {
            command: "rustc -vV".into(),
            expected: "lines `release:` and `LLVM version:`",
        }),
    }
}

/// The linker, if installed in the version that the recipe needs and able to start.
pub(crate) fn find_linker() -> Option<Linker> {
    let path = process::find("bpf-linker")?;
    let version = process::output(Command::new(&path).arg("--version")).ok()?;
    if version.split_whitespace().nth(1) != Some(LINKER_VERSION) {
        return None;
    }
    let libraries = process::output(Command::new("ldd").arg(&path)).unwrap_or_default();
    Some(Linker { llvm: linked_llvm(&libraries), path })
}

/// LLVM's major from the answer of ldd, e.g. `libLLVM.so.22.1 => ...` or `libLLVM-19.so.1 => ...`.
fn linked_llvm(libraries: &str) -> Option<u32> {
    let name = libraries.lines().find_map(|line| line.trim().strip_prefix("libLLVM"))?;
    let digits = name.trim_start_matches(".so.").trim_start_matches('-');
    digits.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
}

impl Linker {
    /// Whether it reads what `compiler` writes. A static release binary carries the newest LLVM and is trusted.
    pub(crate) fn fits(&self, compiler: &Compiler) -> bool {
        match (self.llvm, compiler.route) {
            (None, _) => true,
            (Some(llvm), Route::Debian) => llvm == compiler.llvm,
            (Some(llvm), Route::Rustup) => llvm >= compiler.llvm,
        }
    }
}

impl Compiler {
    /// One line that tells which compiler builds the eBPF program and why it can.
    pub(crate) fn describe(&self) -> String {
        let (release, llvm) = (&self.release, self.llvm);
        match self.route {
            Route::Debian => {
                format!("route debian: {DEBIAN_RUSTC}, {release}, LLVM {llvm}, prebuilt core for {TARGET}")
            }
            Route::Rustup => {
                format!("route rustup: nightly, {release}, LLVM {llvm}, core for {TARGET} from rust-src")
            }
        }
    }

    /// `cargo SUBCOMMAND` in the eBPF crate at `dir`, with this compiler and `linker`.
    ///
    /// The crate has its own lockfile and target directory because two compilers' libraries do not mix.
    pub(crate) fn cargo(&self, subcommand: &str, dir: &Path, linker: &Linker) -> Command {
        let mut command = match self.route {
            Route::Debian => {
                let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
                // aya-ebpf 0.2.1 uses one unstable feature; the compiler is a stable release.
                cargo.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1").arg(subcommand);
                cargo
            }
            Route::Rustup => {
                let mut cargo = Command::new("rustup");
                // `cargo xtask` runs under the default toolchain and says so in the environment.
                cargo.env_remove("RUSTUP_TOOLCHAIN").env_remove("RUSTC").env_remove("CARGO");
                cargo.args(["run", "nightly", "cargo", subcommand, "-Z", "build-std=core"]);
                cargo
            }
        };
        command
            .current_dir(dir)
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_BUILD_TARGET")
            .env("CARGO_ENCODED_RUSTFLAGS", flags(dir, linker).join("\u{1f}"))
            .args(["--release", "--target", TARGET, "--target-dir"])
            .arg(dir.join("target"));
        command
    }
}

fn flags(dir: &Path, linker: &Linker) -> Vec<String> {
    let mut flags: Vec<String> =
        ["-C", "debuginfo=2", "-C", "link-arg=--btf", "-C"].map(String::from).to_vec();
    flags.push(format!("linker={}", linker.path.display()));
    // BTF line information names source files: without this the object would depend on where it was built.
    if let Some(home) = crate::workspace::cargo_home() {
        flags.push(format!("--remap-path-prefix={}=cargo", home.display()));
    }
    if let Some(root) = dir.parent() {
        flags.push(format!("--remap-path-prefix={}=etm", root.display()));
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\nbinary: rustc\nhost: x86_64-unknown-linux-gnu\nrelease: 1.96.0\nLLVM version: 22.1.8\n";

    fn linker(llvm: Option<u32>) -> Linker {
        Linker { path: "/x/bpf-linker".into(), llvm }
    }

    #[test]
    fn the_llvm_major_is_read_from_the_compiler() {
        let compiler = compiler_from(Route::Debian, DEBIAN).unwrap();
        assert_eq!((compiler.llvm, compiler.release.as_str()), (22, "rustc 1.96.0"));
        assert!(compiler_from(Route::Debian, "rustc 1.96.0\n").is_err());
    }

    #[test]
    fn the_linker_must_have_debians_llvm_and_at_least_nightlys() {
        let debian = compiler_from(Route::Debian, DEBIAN).unwrap();
        let nightly = compiler_from(Route::Rustup, DEBIAN).unwrap();
        let fits = |llvm| (linker(llvm).fits(&debian), linker(llvm).fits(&nightly));
        assert_eq!(fits(Some(21)), (false, false));
        assert_eq!(fits(Some(22)), (true, true));
        assert_eq!(fits(Some(23)), (false, true));
        assert_eq!(fits(None), (true, true), "a static binary is trusted");
    }

    #[test]
    fn the_linkers_llvm_is_read_from_its_libraries() {
        assert_eq!(linked_llvm("\tlinux-vdso.so.1 (0x0)\n\tlibLLVM.so.22.1 => /usr/lib/x (0x0)\n"), Some(22));
        assert_eq!(linked_llvm("\tlibLLVM-19.so.1 => /usr/lib/x (0x0)\n"), Some(19));
        assert_eq!(linked_llvm("\tstatically linked\n"), None);
    }

    #[test]
    fn the_object_does_not_depend_on_where_it_was_built() {
        let flags = flags(Path::new("/src/etm/etm-ebpf"), &linker(None));
        assert!(flags.contains(&"--remap-path-prefix=/src/etm=etm".to_owned()), "{flags:?}");
    }
}
