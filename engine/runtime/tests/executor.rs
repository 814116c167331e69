//! The shard's loop over a real ring: tasks, timers, cancellation, panics, foreign threads.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use corelog_runtime::driver::{Doorbell, Driver};
use corelog_runtime::uring::UringDriver;
use corelog_runtime::{BufferPool, Rt, ShardId, blocking, sync};

fn rt() -> Rt {
    let driver = UringDriver::new(64).expect("a ring");
    Rt::new(ShardId(0), Box::new(driver), BufferPool::new(1 << 20))
}

#[test]
fn spawned_tasks_give_their_output_and_run_in_order_of_spawning() {
    let rt = rt();
    let order = Rc::new(RefCell::new(Vec::new()));
    let tasks: Vec<_> = (0..10)
        .map(|number| {
            let order = order.clone();
            rt.spawn("numbered", async move {
                order.borrow_mut().push(number);
                number * 2
            })
        })
        .collect();
    let sum = rt.block_on(async {
        let mut sum = 0;
        for task in tasks {
            sum += task.await.expect("no panic");
        }
        sum
    });
    assert_eq!(sum, 90);
    assert_eq!(*order.borrow(), (0..10).collect::<Vec<_>>());
    assert_eq!(rt.counters().live_tasks, 0);
}

#[test]
fn a_panicking_task_is_counted_and_harms_no_other() {
    let rt = rt();
    let bad = rt.spawn("bad", async { panic!("on purpose") });
    let good = rt.spawn("good", async { 7 });
    let (bad, good) = rt.block_on(async { (bad.await, good.await) });
    assert!(bad.is_none());
    assert_eq!(good, Some(7));
    assert_eq!(rt.counters().task_panics, 1);
    assert_eq!(rt.counters().live_tasks, 0);
}

struct DropFlag(Rc<Cell<bool>>);

impl Drop for DropFlag {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

#[test]
fn dropping_a_task_handle_detaches_and_cancel_drops_the_future() {
    let rt = rt();
    let ran = Rc::new(Cell::new(false));
    let dropped = Rc::new(Cell::new(false));
    let (flag, inner) = (DropFlag(dropped.clone()), rt.clone());
    let cancelled = rt.spawn("sleeper", async move {
        let _flag = flag;
        inner.sleep(Duration::from_secs(3600)).await;
    });
    {
        let (ran, inner) = (ran.clone(), rt.clone());
        drop(rt.spawn("detached", async move {
            inner.sleep(Duration::from_millis(1)).await;
            ran.set(true);
        }));
    }
    rt.block_on(async {
        rt.sleep(Duration::from_millis(5)).await;
        assert!(!dropped.get());
        assert!(cancelled.cancel_and_wait().await.is_none());
    });
    assert!(ran.get());
    assert!(dropped.get());
}

#[test]
fn timers_fire_in_order_of_deadline_and_never_early() {
    let rt = rt();
    let fired = Rc::new(RefCell::new(Vec::new()));
    let started = rt.now();
    let tasks: Vec<_> = [30u64, 10, 20, 0]
        .into_iter()
        .map(|ms| {
            let (fired, inner) = (fired.clone(), rt.clone());
            let deadline = started + Duration::from_millis(ms);
            rt.spawn("timer", async move {
                inner.sleep_until(deadline).await;
                assert!(inner.now() >= deadline);
                fired.borrow_mut().push(ms);
            })
        })
        .collect();
    rt.block_on(async {
        for task in tasks {
            task.await.expect("no panic");
        }
    });
    assert_eq!(*fired.borrow(), [0, 10, 20, 30]);
}

#[test]
fn a_timeout_ends_what_takes_longer_and_lets_through_what_does_not() {
    let rt = rt();
    rt.block_on(async {
        let never = std::future::pending::<()>();
        assert_eq!(rt.timeout(Duration::from_millis(1), never).await, None);
        assert_eq!(
            rt.timeout(Duration::from_secs(3600), async { 5 }).await,
            Some(5)
        );
    });
}

#[test]
fn yielding_lets_the_others_run() {
    let rt = rt();
    let stop = Rc::new(Cell::new(false));
    let (flag, inner) = (stop.clone(), rt.clone());
    let spinner = rt.spawn("spinner", async move {
        let mut rounds = 0u64;
        while !flag.get() {
            rounds += 1;
            inner.yield_now().await;
        }
        rounds
    });
    rt.block_on(async {
        rt.sleep(Duration::from_millis(2)).await;
        stop.set(true);
        assert!(spinner.await.expect("no panic") > 1);
    });
}

#[test]
fn yield_if_needed_yields_only_after_the_budget() {
    let rt = rt();
    rt.block_on(async {
        let before = rt.counters().turns;
        rt.yield_if_needed().await;
        assert_eq!(rt.counters().turns, before, "nothing was spent yet");
        let start = blocking::now();
        while start.elapsed() < Duration::from_millis(1) {}
        rt.yield_if_needed().await;
        assert!(rt.counters().turns > before);
    });
}

#[test]
fn a_task_that_holds_the_shard_is_counted_as_a_stall() {
    let rt = rt();
    let task = rt.spawn("hog", async {
        let start = blocking::now();
        while start.elapsed() < Duration::from_millis(6) {}
    });
    rt.block_on(task);
    let counters = rt.counters();
    assert!(counters.stalls >= 1 && counters.stall_longest_ns > 5_000_000);
    assert!(rt.stalls().iter().any(|(name, _)| *name == "hog"));
}

#[test]
fn blocking_work_runs_elsewhere_and_its_panic_comes_back() {
    let rt = rt();
    let here = std::thread::current().id();
    rt.block_on(async {
        let there = rt.blocking(|| std::thread::current().id()).await;
        assert_ne!(here, there);
        let inner = rt.clone();
        let task = rt.spawn("caller", async move {
            inner.blocking(|| panic!("on purpose")).await;
        });
        assert!(task.await.is_none());
        assert_eq!(rt.blocking(|| 3).await, 3, "the helper survived");
    });
}

#[test]
fn a_doorbell_from_a_foreign_thread_ends_a_turn_without_end() {
    let mut driver = UringDriver::new(8).expect("a ring");
    let doorbell = driver.doorbell();
    let (sender, receiver) = mpsc::channel();
    let thread = blocking::spawn("foreign", move || {
        while receiver.recv().is_ok() {
            doorbell.ring();
        }
    })
    .expect("a thread");
    for _ in 0..100 {
        sender.send(()).expect("the thread listens");
        assert!(
            driver.turn(None, &mut Vec::new()),
            "nothing else can end this turn"
        );
    }
    drop(sender);
    thread.join().expect("no panic");
}

#[test]
fn a_shard_rings_another_through_its_ring() {
    let (doorbells, doorbell) = mpsc::channel();
    let sleeper = blocking::spawn("sleeper", move || {
        let mut driver = UringDriver::new(8).expect("a ring");
        doorbells.send(driver.doorbell()).expect("the test listens");
        for _ in 0..100 {
            assert!(
                driver.turn(None, &mut Vec::new()),
                "nothing else can end this turn"
            );
            doorbells.send(driver.doorbell()).expect("the test listens");
        }
    });
    let mut driver = UringDriver::new(8).expect("a ring");
    for _ in 0..100 {
        let peer = doorbell.recv().expect("the sleeper lives");
        driver.ring_peer(&peer);
        driver.turn(Some(Duration::ZERO), &mut Vec::new());
    }
    sleeper.expect("a thread").join().expect("no panic");
}

/// Claims a ring it does not have.
struct Impostor(AtomicU64);

impl Doorbell for Impostor {
    fn ring(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn uring_fd(&self) -> Option<i32> {
        Some(0)
    }
}

#[test]
fn a_doorbell_whose_ring_refuses_the_post_is_rung_the_other_way() {
    let mut driver = UringDriver::new(8).expect("a ring");
    let impostor = Arc::new(Impostor(AtomicU64::new(0)));
    let peer: Arc<dyn Doorbell> = impostor.clone();
    driver.ring_peer(&peer);
    while impostor.0.load(Ordering::SeqCst) == 0 {
        driver.turn(Some(Duration::from_millis(1)), &mut Vec::new());
    }
    driver.ring_peer(&peer);
    assert_eq!(impostor.0.load(Ordering::SeqCst), 2, "at once from now on");
}

/// Hands its waker to another thread, once.
struct WakeFromAfar {
    to: Option<mpsc::Sender<Waker>>,
}

impl Future for WakeFromAfar {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.to.take() {
            Some(to) => {
                to.send(cx.waker().clone()).expect("the thread listens");
                Poll::Pending
            }
            None => Poll::Ready(()),
        }
    }
}

#[test]
fn a_waker_used_on_a_foreign_thread_is_safe_and_wakes() {
    let rt = rt();
    for _ in 0..200 {
        let (to, from) = mpsc::channel::<Waker>();
        let thread = blocking::spawn("foreign", move || {
            for waker in from {
                waker.wake();
            }
        })
        .expect("a thread");
        let local = Rc::new(Cell::new(0));
        let inside = local.clone();
        let far = WakeFromAfar {
            to: Some(to.clone()),
        };
        let task = rt.spawn("not send", async move {
            far.await;
            inside.set(1);
        });
        rt.block_on(async {
            WakeFromAfar { to: Some(to) }.await;
            task.await.expect("no panic");
        });
        assert_eq!(local.get(), 1);
        thread.join().expect("no panic");
    }
}

#[test]
fn closing_a_shard_drops_every_task_and_what_it_owns() {
    let rt = rt();
    let dropped = Rc::new(Cell::new(false));
    let (flag, inner) = (DropFlag(dropped.clone()), rt.clone());
    rt.spawn("holds the shard itself", async move {
        let _flag = flag;
        inner.sleep(Duration::from_secs(3600)).await;
    })
    .detach();
    let (sender, receiver) = sync::oneshot::<()>();
    rt.spawn("waits for ever", async move {
        receiver.await;
    })
    .detach();
    rt.block_on(rt.sleep(Duration::from_millis(1)));
    assert_eq!(rt.counters().live_tasks, 2);
    rt.close();
    assert!(dropped.get());
    assert_eq!(rt.counters().live_tasks, 0);
    drop(sender);
}

#[test]
fn an_idle_shard_makes_no_turns() {
    let rt = rt();
    rt.block_on(async {
        rt.sleep(Duration::from_millis(1)).await;
        let before = rt.counters().turns;
        rt.sleep(Duration::from_millis(50)).await;
        let turns = rt.counters().turns - before;
        assert!(turns < 10, "{turns} turns while nothing happened");
    });
}
