//! Stories of the program itself: what commands need, what they refuse, how `serve` begins and ends.
#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

/// Longer than anything here takes on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// The program in a directory of its own, with no settings but those two.
fn program(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ez-control-plane"));
    command
        .env_clear()
        .env("DATABASE_URL", format!("sqlite:{}", home.join("ez.sqlite").display()))
        .env("KEYS_DIR", home.join("keys"))
        .current_dir(home)
        .args(arguments);
    command
}

fn run(home: &Path, arguments: &[&str]) -> (bool, String) {
    let Output { status, stdout, stderr } = program(home, arguments).output().unwrap();
    (status.success(), format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)))
}

/// The same with everything that selling needs.
fn shop(home: &Path, arguments: &[&str]) -> Command {
    let mut command = program(home, arguments);
    command.envs([
        ("PUBLIC_URL", "http://127.0.0.1:8080"),
        ("LISTEN", "127.0.0.1:0"),
        ("LINK_LISTEN", "127.0.0.1:0"),
        ("STRIPE_API_BASE", "http://127.0.0.1:1"),
        ("STRIPE_SECRET_KEY", "sk_test_tests"),
        ("STRIPE_WEBHOOK_SECRETS", "whsec_tests"),
        ("MAIL_FROM", "EZ Solutions <noreply@ez.example>"),
        ("LOG", "info"),
    ]);
    command
}

/// A running `serve`; ends with the story that started it.
struct Serve(Child);

impl Serve {
    /// Starts it and waits until it says that it serves.
    fn start(home: &Path) -> Self {
        let mut serve = Self(shop(home, &["serve"]).stderr(Stdio::piped()).spawn().unwrap());
        let lines = BufReader::new(serve.0.stderr.take().unwrap()).lines();
        let (tell, told) = mpsc::channel();
        // Reads on to the end, so that the pipe never fills.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _nobody_waits = tell.send(line);
            }
        });
        let mut seen = Vec::new();
        loop {
            let line = told.recv_timeout(SOON).unwrap_or_else(|_| panic!("serve does not serve: {seen:?}"));
            if line.contains("serving") {
                return serve;
            }
            seen.push(line);
        }
    }

    /// Sends a signal; the exit code, or nothing if the signal killed it.
    fn end(mut self, signal: Signal) -> Option<i32> {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
        self.0.wait().unwrap().code()
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ended_before = self.0.kill();
        let _status = self.0.wait();
    }
}

#[test]
fn commands_need_only_their_own_settings() {
    let home = tempfile::tempdir().unwrap();
    for arguments in [&["keys", "init"][..], &["migrate"], &["audit", "verify"], &["backup", "copy.sqlite"]] {
        let (worked, said) = run(home.path(), arguments);
        assert!(worked, "{arguments:?}: {said}");
    }
    let (worked, said) = run(home.path(), &["backup", "copy.sqlite"]);
    assert!(!worked && said.contains("copy.sqlite is there already"), "{said}");
    assert_eq!(said.matches("already").count(), 1, "said once: {said}");
    let (worked, said) = run(home.path(), &["keys", "init"]);
    assert!(!worked && said.contains("trust.json is there already; nothing was changed"), "{said}");
}

#[test]
fn a_wrong_path_makes_no_database() {
    let home = tempfile::tempdir().unwrap();
    for arguments in [&["order", "list"][..], &["serve"], &["node", "list"]] {
        let output = shop(home.path(), arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{arguments:?}");
        assert!(said.contains("there is no database at") && said.contains("migrate"), "{said}");
    }
    for arguments in [&["audit", "verify"][..], &["backup", "copy"]] {
        let (worked, said) = run(home.path(), arguments);
        assert!(!worked && said.contains("there is no database at"), "{said}");
    }
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn commands_say_that_migrations_are_pending() {
    let home = tempfile::tempdir().unwrap();
    run(home.path(), &["keys", "init"]);
    std::fs::write(home.path().join("ez.sqlite"), "").unwrap();
    let output = shop(home.path(), &["order", "list"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("migrations are pending") && !said.contains("no such table"), "{said}");
}

#[test]
fn one_process_serves_and_a_hangup_ends_it_cleanly() {
    let home = tempfile::tempdir().unwrap();
    for arguments in [&["keys", "init"][..], &["migrate"]] {
        assert!(run(home.path(), arguments).0);
    }
    let first = Serve::start(home.path());
    let second = shop(home.path(), &["serve"]).output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success());
    assert!(said.contains("ez.sqlite.lock") && said.contains(&first.0.id().to_string()), "{said}");
    assert_eq!(first.end(Signal::HUP), Some(0), "a clean stop");
    // A killed one leaves nothing that has to be cleaned up.
    assert_eq!(Serve::start(home.path()).end(Signal::KILL), None);
    assert_eq!(Serve::start(home.path()).end(Signal::TERM), Some(0));
}
