//! Ctrl-C ends a run within a step and leaves nothing half done.
#![cfg(unix)]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Place, models};

/// Starts a run that would take minutes and signals it after a while.
fn interrupted(backend: &str, signal: &str) {
    let place = Place::new();
    let model = models().join("mednist-ddpm").display().to_string();
    let run = ["sample", "--model", &model, "--sampler", "ddpm", "--backend", backend, "--latents-out", "x0"];
    let mut child = place.command(&run).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    assert!(child.try_wait().unwrap().is_none(), "the run was over too soon");
    let asked = Instant::now();
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    // A step takes a second at the most, also on a busy machine that runs other tests.
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert_eq!(output.status.code(), Some(130));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.lines().count() == 1 && said.starts_with("error: interrupted"), "{said}");
    assert!(place.files().is_empty(), "{:?}", place.files());
}

#[test]
fn ctrl_c_on_the_cpu() {
    interrupted("cpu", "-INT");
}

#[test]
fn ctrl_c_on_the_reference() {
    interrupted("reference", "-INT");
}

#[test]
fn a_request_to_terminate() {
    interrupted("cpu", "-TERM");
}
