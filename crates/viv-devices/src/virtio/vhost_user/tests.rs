//! The device between a driver and back ends of the tests' own.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use viv_engine::memory::{self, FileAccess};
use viv_vhost::{BackEnd, Lost};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::testing::{Fake, lock};
use super::{SETTLE, VhostUser, VhostUserKind, block};
use crate::DeviceError;
use crate::virtio::feature;
use crate::virtio::testing::{Driver, Numbers, RAM, RING_FEATURES};

const PATIENCE: Duration = Duration::from_secs(60);
/// A feature of disks that is handed on, and one that is not.
const FLUSH: u64 = 1 << 9;
const CONFIG_WCE: u64 = 1 << 11;

/// A device with its back end, before a driver comes.
struct Bench {
    device: Arc<Mutex<VhostUser>>,
    fake: Arc<Mutex<Fake>>,
}

impl Bench {
    fn new(kind: VhostUserKind, features: u64, queues: u64, config: &[u8]) -> Self {
        let (socket, fake) = Fake::start(features, queues, config);
        let back_end = BackEnd::connect(socket, VhostUser::MAX_QUEUES, PATIENCE).unwrap();
        Self { device: Arc::new(Mutex::new(VhostUser::new(kind, back_end).unwrap())), fake }
    }

    /// A disk of 1 MiB with so many queues.
    fn disk(queues: u16) -> Self {
        let mut config = vec![0; 60];
        config[..8].copy_from_slice(&2048_u64.to_le_bytes());
        config[34..36].copy_from_slice(&queues.to_le_bytes());
        Self::new(VhostUserKind::Block, FLUSH | CONFIG_WCE | block::MQ, queues.into(), &config)
    }

    fn interface() -> Self {
        Self::new(VhostUserKind::Net { mac: [2, 0, 0, 0, 0, 9] }, 0, 2, &[])
    }

    fn driver(&self) -> Driver {
        let mut driver = Driver::new(self.device.clone());
        let features = driver.offered();
        driver.start(features);
        driver.worker.process();
        driver
    }

    /// Lets the device's thread hear of a call that has come.
    fn heed(&self) {
        let mut device = self.device.lock().unwrap();
        assert!(is_readable(&device.called()), "the back end has called");
        device.process_called();
    }

    /// Has the back end answer all requests of a queue with `answer`, and the device take note.
    fn serve(&self, queue: usize, answer: &[u8]) -> Vec<Vec<u8>> {
        let mut said = Vec::new();
        let mut fake = lock(&self.fake);
        while let Some(request) = fake.take(queue) {
            fake.give_back(queue, &request, answer);
            said.push(request.says);
        }
        drop(fake);
        self.heed();
        said
    }
}

fn is_readable(fd: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&now)).unwrap() == 1
}

#[test]
fn a_disk_is_what_its_back_end_says() {
    let bench = Bench::disk(3);
    let mut driver = bench.driver();
    assert_eq!(driver.offered(), RING_FEATURES | FLUSH | block::MQ);
    assert_eq!((driver.config(0, 8), driver.config(34, 2), driver.rings.len()), (2048, 3, 3));
    let fake = lock(&bench.fake);
    // What is told of positions is between the driver and this side.
    assert_eq!(fake.chosen & !(1 << 30), (RING_FEATURES | FLUSH | block::MQ) & !feature::RING_EVENT_IDX);
    assert!(fake.memory() > RAM - (1 << 20) && fake.rings.iter().all(|ring| ring.kick.is_some()));
}

#[test]
fn more_queues_than_are_of_use_are_not_offered() {
    let bench = Bench::disk(40);
    let mut driver = bench.driver();
    assert_eq!((driver.config(34, 2), driver.rings.len()), (16, 16));
}

#[test]
fn requests_go_there_and_back() {
    let bench = Bench::disk(2);
    let mut driver = bench.driver();
    driver.interrupts();
    for queue in [0, 1] {
        let (asked, answer) = (driver.data(b"read!"), driver.buffer(8));
        let parts = [(asked, 5, false), (answer, 8, true)];
        let heads = [driver.add(queue, &parts), driver.add(queue, &parts)];
        driver.kick(queue);
        assert!(driver.used(queue).is_empty());
        assert!(is_readable(lock(&bench.fake).rings[queue].kick.as_ref().unwrap()));
        assert_eq!(bench.serve(queue, b"answered"), [b"read!", b"read!"]);
        assert_eq!(driver.used(queue), heads.map(|head| (head, 8)));
        assert_eq!(driver.interrupts(), [queue as u64]);
        assert_eq!(driver.bytes(answer, 8), b"answered");
    }
}

#[test]
fn requests_for_memory_that_a_back_end_is_not_told_of_are_refused() {
    let bench = Bench::disk(1);
    let start = 4 << 30;
    let file = memory::shared(start, 0x1000).unwrap();
    let file = file.iter().next().and_then(|region| region.file_offset()).unwrap().arc().clone();
    let region = memory::map_file(start, &file, 0x1000, FileAccess::Shared).unwrap();
    let all = memory::allocate(RAM).unwrap().insert_region(region).unwrap();
    let mut driver = Driver::with_memory(bench.device.clone(), all);
    let features = driver.offered();
    driver.start(features);
    driver.worker.process();

    let (asked, answer, room) = (driver.data(b"read!"), driver.data(&[0xaa]), driver.buffer(8));
    let refused = driver.add(0, &[(start, 16, false), (answer, 1, true)]);
    let served = driver.add(0, &[(asked, 5, false), (room, 8, true)]);
    driver.kick(0);
    assert_eq!(driver.used(0), [(refused, 1)]);
    assert_eq!(driver.bytes(answer, 1), [block::IOERR]);
    // Behind one that is under way it waits, to be put back with it if need be.
    let again = driver.add(0, &[(start, 16, false), (answer, 1, true)]);
    driver.kick(0);
    assert!(driver.used(0).is_empty());
    assert_eq!(bench.serve(0, b"answered"), [b"read!"]);
    driver.worker.process();
    assert_eq!(driver.used(0), [(served, 8), (again, 1)]);
}

#[test]
fn rings_go_round_and_requests_end_in_any_order() {
    let bench = Bench::disk(1);
    let mut driver = bench.driver();
    let answer = driver.buffer(4);
    for round in 0..100 {
        let heads: Vec<_> = (0..7).map(|_| driver.add(0, &[(answer, 4, true)])).collect();
        driver.kick(0);
        let mut fake = lock(&bench.fake);
        let mut requests: Vec<_> = std::iter::from_fn(|| fake.take(0)).collect();
        requests.rotate_left(round % 7);
        for request in &requests {
            fake.give_back(0, request, b"done");
        }
        drop(fake);
        bench.heed();
        let mut used: Vec<_> = driver.used(0).into_iter().map(|(head, _)| head).collect();
        used.rotate_right(round % 7);
        assert_eq!(used, heads);
    }
}

#[test]
fn what_a_back_end_wrote_is_on_record_before_the_driver_knows() {
    let bench = Bench::disk(1);
    let mut driver = bench.driver();
    let answer = driver.buffer(0x2000);
    driver.add(0, &[(answer, 0x2000, true)]);
    driver.kick(0);
    drop(memory::take_dirty_pages(&driver.memory));
    // It says that it wrote less than it may have.
    bench.serve(0, b"x");
    let pages = memory::take_dirty_pages(&driver.memory);
    assert!([answer >> 12, (answer >> 12) + 1].iter().all(|page| pages.contains(page)), "{pages:?}");
}

#[test]
fn a_device_moves_with_what_its_back_end_had_not_begun() {
    let bench = Bench::interface();
    let mut driver = bench.driver();
    let buffers: Vec<_> = (0..4).map(|_| driver.buffer(64)).collect();
    let heads: Vec<_> = buffers.iter().map(|&buffer| driver.add(0, &[(buffer, 64, true)])).collect();
    driver.kick(0);
    {
        let mut fake = lock(&bench.fake);
        let first = fake.take(0).unwrap();
        fake.give_back(0, &first, b"frame 1");
    }
    bench.device.lock().unwrap().rest();
    assert!(lock(&bench.fake).rings.iter().all(|ring| ring.kick.is_none()), "it rests");
    assert_eq!(driver.used(0), [(heads[0], 7)]);

    let other = Bench::interface();
    let mut driver = driver.move_to(other.device.clone());
    driver.worker.process();
    assert_eq!(other.serve(0, b"frame").len(), 3);
    assert_eq!(driver.used(0), [(heads[1], 5), (heads[2], 5), (heads[3], 5)]);
    assert_eq!(driver.config(0, 2), 0x0002);
}

#[test]
fn rest_and_go_on() {
    let bench = Bench::interface();
    let mut driver = bench.driver();
    let buffer = driver.buffer(64);
    let head = driver.add(0, &[(buffer, 64, true)]);
    driver.kick(0);
    bench.device.lock().unwrap().rest();
    bench.device.lock().unwrap().go_on();
    driver.worker.process();
    assert_eq!(bench.serve(0, b"frame").len(), 1);
    assert_eq!(driver.used(0), [(head, 5)]);
}

#[test]
fn a_reset_driver_starts_anew() {
    let bench = Bench::disk(1);
    let mut driver = bench.driver();
    for _ in 0..3 {
        let features = driver.offered();
        driver.start(features);
        let answer = driver.buffer(4);
        let head = driver.add(0, &[(answer, 4, true)]);
        driver.kick(0);
        bench.serve(0, b"done");
        assert_eq!(driver.used(0), [(head, 4)]);
    }
}

#[test]
fn a_file_system_has_a_tag_and_is_not_saved() {
    let kind = VhostUserKind::FileSystem { tag: "share".into() };
    let bench = Bench::new(kind, 0, 2, &[]);
    let sizes = crate::virtio::VirtioDevice::queue_sizes(&*bench.device.lock().unwrap());
    assert_eq!(sizes, [1024, 1024], "room for 1 MiB in pages, and what comes with it");
    let mut driver = bench.driver();
    assert_eq!((driver.config(0, 8), driver.config(36, 4)), (u64::from_le_bytes(*b"share\0\0\0"), 1));
    let error = crate::virtio::VirtioDevice::save(&*bench.device.lock().unwrap()).unwrap_err();
    assert!(matches!(error, DeviceError::NotSaved { .. }), "{error}");
}

#[test]
fn a_disk_of_another_size_is_another_disk() {
    let saved = crate::virtio::VirtioDevice::save(&*Bench::disk(1).device.lock().unwrap()).unwrap();
    for other in [Bench::disk(2), Bench::interface()] {
        let restored = crate::virtio::VirtioDevice::restore(&mut *other.device.lock().unwrap(), &saved);
        assert!(matches!(restored, Err(DeviceError::Invalid { .. })));
    }
}

#[test]
fn a_back_end_that_breaks_a_ring_breaks_the_device_alone() {
    let breaks: [fn(&mut Fake); 5] = [
        // More than there was, what it did not have, what is no descriptor, the same twice.
        |fake| fake.set_used_index(0, 2),
        |fake| {
            fake.mark_used(0, 9, 4);
            fake.set_used_index(0, 1);
        },
        |fake| {
            fake.mark_used(0, u32::MAX, 4);
            fake.set_used_index(0, 1);
        },
        |fake| fake.set_used_index(0, u16::MAX),
        |fake| {
            fake.mark_used(0, 0x1_0000, 4);
            fake.set_used_index(0, 1);
        },
    ];
    for break_it in breaks {
        let bench = Bench::disk(1);
        let mut driver = bench.driver();
        let answer = driver.buffer(4);
        let head = driver.add(0, &[(answer, 4, true)]);
        driver.kick(0);
        break_it(&mut lock(&bench.fake));
        bench.heed();
        assert_eq!(driver.used(0), [(head, 0)]);
        assert_eq!(driver.bytes(answer, 4)[3], block::IOERR);
        let why = bench.device.lock().unwrap().process_loss();
        assert!(matches!(why, Lost::Ring(_)), "{why}");
        // A reset does not help, and does no harm.
        let features = driver.offered();
        driver.start(features);
        let status = driver.buffer(1);
        let head = driver.add(0, &[(status, 1, true)]);
        driver.kick(0);
        assert_eq!((driver.used(0), driver.bytes(status, 1)), (vec![(head, 1)], vec![block::IOERR]));
        assert!(!driver.is_broken());
    }
}

#[test]
fn what_was_used_before_a_mistake_is_given_back() {
    // One that the back end did not have, and one that it says it has not begun.
    for stops in [false, true] {
        let bench = Bench::disk(1);
        let mut driver = bench.driver();
        let answers: Vec<u64> = (0..3).map(|_| driver.buffer(4)).collect();
        let heads: Vec<u16> = answers.iter().map(|&answer| driver.add(0, &[(answer, 4, true)])).collect();
        driver.kick(0);
        if stops {
            // The second is used, and the first is not: the third alone can be what was not begun.
            let mut fake = lock(&bench.fake);
            fake.mark_used(0, heads[1].into(), 4);
            fake.set_used_index(0, 1);
            fake.lies = Some(1);
            drop(fake);
            bench.device.lock().unwrap().resting_since = Instant::now().checked_sub(SETTLE);
            bench.device.lock().unwrap().rest();
        } else {
            let mut fake = lock(&bench.fake);
            fake.mark_used(0, heads[0].into(), 4);
            fake.mark_used(0, 99, 4);
            fake.set_used_index(0, 2);
            drop(fake);
            bench.heed();
        }
        let mut used: Vec<u16> = driver.used(0).into_iter().map(|(head, _)| head).collect();
        used.sort_unstable();
        assert_eq!(used, heads, "{stops}");
    }
}

#[test]
fn a_file_system_without_its_back_end_answers_with_errors() {
    let bench = Bench::new(VhostUserKind::FileSystem { tag: "share".into() }, 0, 2, &[]);
    let mut driver = bench.driver();
    let asks = |driver: &mut Driver, unique: u64| {
        let asked = driver.data(&[48, unique, 0].map(u64::to_le_bytes).concat());
        let answer = driver.buffer(64);
        (driver.add(1, &[(asked, 24, false), (answer, 64, true)]), answer)
    };
    let refused = |unique: u64| [[0x10, 0, 0, 0, 0xfb, 0xff, 0xff, 0xff], unique.to_le_bytes()].concat();
    let (before, answer) = asks(&mut driver, 7);
    driver.kick(1);
    bench.device.lock().unwrap().process_loss();
    assert_eq!((driver.used(1), driver.bytes(answer, 16)), (vec![(before, 16)], refused(7)));
    let (after, answer) = asks(&mut driver, 8);
    // One that wants no answer, and one that is no request.
    let forgets = driver.data(&[0; 40]);
    let forgets = driver.add(1, &[(forgets, 40, false)]);
    let nothing = driver.buffer(64);
    let nothing = driver.add(1, &[(nothing, 64, true)]);
    driver.kick(1);
    assert_eq!(driver.used(1), [(after, 16), (forgets, 0), (nothing, 0)]);
    assert_eq!(driver.bytes(answer, 16), refused(8));
}

#[test]
fn it_may_say_that_it_wrote_more_than_there_is_room_for() {
    let bench = Bench::disk(1);
    let mut driver = bench.driver();
    let answer = driver.buffer(4);
    let head = driver.add(0, &[(answer, 4, true)]);
    driver.kick(0);
    {
        let mut fake = lock(&bench.fake);
        fake.mark_used(0, head.into(), u32::MAX);
        fake.set_used_index(0, 1);
    }
    bench.heed();
    assert_eq!(driver.used(0), [(head, 4)]);
}

#[test]
fn one_that_stops_where_it_never_was_is_lost() {
    for lies in [5, 0xffff, 0x1_0000] {
        let bench = Bench::interface();
        let mut driver = bench.driver();
        let buffer = driver.buffer(4);
        driver.add(0, &[(buffer, 4, true)]);
        driver.kick(0);
        lock(&bench.fake).lies = Some(lies);
        bench.device.lock().unwrap().rest();
        assert!(driver.is_broken(), "{lies}");
    }
}

#[test]
fn a_driver_that_breaks_a_ring_breaks_the_device_alone() {
    let bench = Bench::disk(1);
    let mut driver = bench.driver();
    let answer = driver.buffer(4);
    let head = driver.add(0, &[(answer, 4, true)]);
    // The same once more.
    driver.offer(0, head);
    driver.kick(0);
    assert!(driver.is_broken());
    assert_eq!(bench.device.lock().unwrap().back_end.lost(), None);
    lock(&bench.fake).take(0).unwrap();
    let features = driver.offered();
    // What the back end had begun is waited for, so it comes to its end.
    {
        let mut fake = lock(&bench.fake);
        fake.mark_used(0, head.into(), 4);
        fake.set_used_index(0, 1);
    }
    driver.start(features);
    assert!(!driver.is_broken());
}

/// What a back end does that is out of its mind, for a driver that is not.
fn rave(fake: &mut Fake, random: &mut Numbers, held: &mut Vec<u16>) {
    held.extend(fake.take_head(0));
    match random.below(12) {
        0 => fake.set_used_index(0, random.next() as u16),
        1 => fake.mark_used(0, random.next() as u32, random.next() as u32),
        2 => fake.lies = Some(random.below(300) as u32),
        3 => fake.give_back_head(0, random.below(8) as u16, 1),
        _ => {
            if let Some(head) = held.pop() {
                fake.give_back_head(0, head, random.next() as u32);
            }
        }
    }
}

#[test]
fn no_back_end_makes_more_of_a_ring_than_the_driver_put_there() {
    for seed in 0..60 {
        let (mut random, mut held) = (Numbers::new(seed), Vec::new());
        let bench = Bench::interface();
        let mut driver = bench.driver();
        let buffer = driver.buffer(16);
        let mut under_way = std::collections::HashSet::new();
        for _ in 0..40 {
            // A driver uses a descriptor once it has it back.
            if under_way.len() < 100 {
                under_way.insert(driver.add(0, &[(buffer, 16, true)]));
            }
            driver.kick(0);
            rave(&mut lock(&bench.fake), &mut random, &mut held);
            let mut device = bench.device.lock().unwrap();
            if random.below(8) == 0 {
                device.rest();
                device.go_on();
                held.clear();
            }
            device.process_called();
            drop(device);
            driver.worker.process();
            for (head, written) in driver.used(0) {
                assert!(under_way.remove(&head) && written <= 16, "seed {seed}: {head}, {written}");
            }
        }
        let why = bench.device.lock().unwrap().back_end.lost();
        assert_eq!(why.is_some(), driver.is_broken(), "seed {seed}: {why:?}");
    }
}
