//! Daemons that die, and daemons that take over.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::process::Signal;
use splitter_tests::daemon::{Site, eventually};
use splitter_tests::empty::attached;
use splitter_tests::scale;

use crate::{ExactClient, SHOP, port_of, service, shop};

/// A client that connects without end, in the background.
#[derive(Default)]
struct Load {
    connects: AtomicU64,
    done: AtomicBool,
}

impl Load {
    fn run(&self, mut connect: impl FnMut() -> Result<()>) -> Result<()> {
        while !self.done.load(Ordering::Relaxed) {
            connect()?;
            self.connects.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Waits for some connections more.
    fn wait(&self, more: u64) -> Result<()> {
        let wanted = self.connects.load(Ordering::Relaxed) + more;
        eventually("clients connect", || Ok(self.connects.load(Ordering::Relaxed) >= wanted))
    }
}

/// Runs a body while clients connect; each of them has to succeed.
fn under_load<'a>(
    clients: Vec<Box<dyn FnMut() -> Result<()> + Send + 'a>>,
    body: impl FnOnce(&dyn Fn() -> Result<()>) -> Result<()>,
) -> Result<()> {
    let loads: Vec<Load> = clients.iter().map(|_| Load::default()).collect();
    thread::scope(|threads| {
        let running: Vec<_> = clients
            .into_iter()
            .zip(&loads)
            .map(|(client, load)| threads.spawn(|| load.run(client)))
            .collect();
        let result = body(&|| {
            ensure!(!running.iter().any(thread::ScopedJoinHandle::is_finished), "a client failed");
            loads.iter().try_for_each(|load| load.wait(100))
        });
        for load in &loads {
            load.done.store(true, Ordering::Relaxed);
        }
        for client in running {
            client.join().expect("the client does not panic")?;
        }
        result
    })
}

#[test]
fn nobody_misses_a_daemon_that_is_killed() -> Result<()> {
    let site = Site::new()?;
    let other = "127.10.0.2:8080";
    let policy = site.write("policy.yaml", shop(20_000) + &service("other", other, 21_000))?;
    let options = ["--policy", &policy];
    let mut daemon = site.run(&options)?;
    let generation = site.generation()?;
    let mut clients = [ExactClient::new(SHOP, 20_000)?, ExactClient::new(other, 21_000)?];
    let clients = clients.each_mut().map(|client| Box::new(|| client.connect()) as Box<_>).into();
    under_load(clients, |wait| {
        for round in 0..(20 / scale()).max(4) {
            wait()?;
            daemon.kill()?;
            wait()?;
            if round % 2 == 1 {
                // Another one does not get to the end of its start.
                let starting = site.spawn(&options)?;
                thread::sleep(Duration::from_millis(round));
                starting.kill()?;
            }
            daemon = site.run(&options)?;
            ensure!(site.generation()? == generation, "the policy is what it was");
            ensure!(site.problems()?.is_empty(), "{:?}", site.problems()?);
        }
        wait()
    })
}

#[test]
fn weights_by_command_outlive_the_daemon() -> Result<()> {
    let site = Site::new()?;
    let policy = site.write("policy.yaml", shop(20_000))?;
    let options = ["--policy", &policy];
    let daemon = site.run(&options)?;
    site.splitter(&["weight", "shop", "v1=0"])?.success()?;
    daemon.kill()?;
    assert_eq!(port_of(SHOP)?, 20_001);
    let _daemon = site.run(&options)?;
    for _ in 0..20 {
        assert_eq!(port_of(SHOP)?, 20_001);
    }
    Ok(())
}

#[test]
fn maps_of_another_size_take_over_without_a_gap() -> Result<()> {
    let site = Site::new()?;
    let policy = site.write("policy.yaml", shop(20_000))?;
    let run = |services: &str| site.run(&["--policy", &policy, "--max-services", services]);
    let mut daemon = run("64")?;
    let connect = || {
        let port = port_of(SHOP)?;
        ensure!((20_000..=20_001).contains(&port), "port {port}");
        Ok(())
    };
    under_load(vec![Box::new(connect), Box::new(connect)], |wait| {
        for services in ["128", "32", "256", "64"] {
            wait()?;
            daemon.terminate()?;
            wait()?;
            daemon = run(services)?;
            ensure!(site.problems()?.is_empty(), "{:?}", site.problems()?);
        }
        wait()?;
        daemon.kill()?;
        let _daemon = run("65")?;
        wait()
    })?;
    let sizes = std::fs::read_dir(site.place().pins())?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("maps-"));
    assert_eq!(sizes.count(), 1, "maps of earlier sizes are gone");
    Ok(())
}

#[test]
fn sigterm_keeps_the_split_or_ends_it_as_told() -> Result<()> {
    let site = Site::new()?;
    let policy = site.write("policy.yaml", shop(20_000))?;
    let mut client = ExactClient::new(SHOP, 20_000)?;
    let keeping = site.run(&["--policy", &policy, "--on-exit", "keep"])?;
    client.connect_times(7)?;
    let log = keeping.terminate()?;
    ensure!(log.contains("split as before"), "{log}");
    ensure!(!site.path("socket").exists(), "the socket is removed");
    assert_eq!(attached(site.place().cgroup())?, 1, "the hook stays");
    client.connect_times(7)?;
    let mut detaching = site.run(&["--policy", &policy, "--on-exit", "detach"])?;
    client.connect_times(7)?;
    detaching.signal(Signal::TERM)?;
    ensure!(detaching.wait()?.success(), "{}", detaching.log());
    ensure!(!site.place().pins().exists(), "the pins are removed");
    assert_eq!(attached(site.place().cgroup())?, 0, "the hook is gone");
    assert_eq!(port_of(SHOP)?, 8080, "no connection is split");
    Ok(())
}

#[test]
fn a_start_with_a_broken_file_keeps_what_runs() -> Result<()> {
    let site = Site::new()?;
    let policy = site.write("policy.yaml", shop(20_000))?;
    let options = ["--policy", &policy];
    let mut client = ExactClient::new(SHOP, 20_000)?;
    site.run(&options)?.kill()?;
    client.connect_times(7)?;
    site.write("policy.yaml", "kind: [")?;
    let daemon = site.run(&options)?;
    ensure!(site.problems()?[0].as_str().is_some_and(|text| text.contains("DEGRADED")));
    client.connect_times(7)?;
    let refusal = site.splitter(&["weight", "shop", "v1=0"])?.refusal()?;
    ensure!(refusal.contains("mend that first"), "{refusal}");
    site.replace("policy.yaml", shop(20_000))?;
    eventually("the mended file is loaded", || Ok(site.problems()?.is_empty()))?;
    client.connect_times(7)?;
    drop(daemon);
    Ok(())
}
