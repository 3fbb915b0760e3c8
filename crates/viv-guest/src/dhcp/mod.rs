//! A DHCP client (RFC 2131): an address for an interface that the host gave none.
//!
//! It speaks through the kernel's UDP. An interface without an address is reached, and reaches out, by the address of all,
//! for which there is a route while the client speaks; one at a time does so. A lease that is there is renewed with the
//! server that gave it, then with any; the kernel takes the address away when nobody renewed it in time.

mod message;

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use viv_netlink::Netlink;

use crate::report;
pub(crate) use message::Lease;
use message::{Answer, Asked, CLIENT_PORT, Client, SERVER_PORT};

/// How long the first answer is waited for; twice as long each time after, up to the longest.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(32);
/// How long an answer is waited for at the most while others may want to speak.
const LONGEST_TRY: Duration = Duration::from_secs(4);
/// How often a renewal is tried at the most: every so often.
const LEAST_PAUSE: Duration = Duration::from_secs(2);

/// Who speaks to everybody. Several interfaces would get each other's answers.
static SPEAKING: Mutex<()> = Mutex::new(());

/// An interface to get an address for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Interface {
    pub(crate) index: u32,
    pub(crate) mac: [u8; 6],
}

/// Gets a lease for an interface and keeps it, in a thread of its own. `take` is called with each lease, new or renewed, and
/// with one of a moment when the address must be given up. What is returned hears of the first.
///
/// # Errors
/// When there can be no thread.
pub(crate) fn start(
    interface: Interface,
    take: impl Fn(&Lease) + Send + 'static,
) -> io::Result<Receiver<()>> {
    let (sender, first) = mpsc::channel();
    thread::Builder::new().name("dhcp".into()).spawn(move || {
        keep(interface, &|lease| {
            take(lease);
            // Nobody listens after the first.
            let _ = sender.send(());
        })
    })?;
    Ok(first)
}

/// Has a lease for as long as the system runs.
fn keep(interface: Interface, take: &dyn Fn(&Lease)) -> ! {
    let client = Client::new(interface.mac);
    let (mut wait, mut told) = (FIRST_WAIT, false);
    loop {
        let begun = Instant::now();
        match obtain(interface, client, wait.min(LONGEST_TRY)) {
            Ok(Some(mut lease)) => {
                take(&lease);
                while let Some(next) = renew(interface, client, &lease) {
                    take(&next);
                    lease = next;
                }
                // One that was refused may last still; the kernel takes it away.
                take(&Lease { duration: Duration::from_secs(1), ..lease });
                (wait, told) = (FIRST_WAIT, false);
            }
            Err(error) if !told => {
                report::problem(&format!("asking for an address by DHCP: {error}"));
                told = true;
            }
            Ok(None) | Err(_) => {}
        }
        // Meanwhile others can ask.
        thread::sleep(wait.saturating_sub(begun.elapsed()));
        wait = wait.saturating_mul(2).min(LONGEST_WAIT);
    }
}

/// Asks for a lease once, and waits so long for each answer.
fn obtain(interface: Interface, client: Client, wait: Duration) -> io::Result<Option<Lease>> {
    let _alone = SPEAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let way = Broadcast::open(interface.index)?;
    let Some(Answer::Offer(offer)) = ask(&way.0, client, &Asked::Any, Ipv4Addr::BROADCAST, wait)? else {
        return Ok(None);
    };
    Ok(match ask(&way.0, client, &Asked::Offered(&offer), Ipv4Addr::BROADCAST, wait)? {
        Some(Answer::Lease(lease)) => Some(lease),
        Some(Answer::Offer(_) | Answer::Refusal) | None => None,
    })
}

/// Waits until a lease should be renewed and renews it; nothing if it was refused, or nobody did in time.
fn renew(interface: Interface, client: Client, lease: &Lease) -> Option<Lease> {
    let begun = Instant::now();
    thread::sleep(lease.renew);
    // First with the server that gave it, then with any.
    for (until, server) in [(lease.rebind, Some(lease.server)), (lease.duration, None)] {
        loop {
            let left = until.saturating_sub(begun.elapsed());
            if left.is_zero() {
                break;
            }
            // Again after half of the time that is left (RFC 2131, 4.4.5).
            let next = Instant::now() + (left / 2).clamp(LEAST_PAUSE, LONGEST_WAIT);
            match try_to_renew(interface, client, lease, server, left.min(LONGEST_TRY)) {
                Ok(Some(Answer::Lease(next))) => return Some(next),
                Ok(Some(Answer::Refusal)) => return None,
                // A network that is down may come up again.
                Ok(Some(Answer::Offer(_)) | None) | Err(_) => {}
            }
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }
    None
}

fn try_to_renew(
    interface: Interface,
    client: Client,
    lease: &Lease,
    server: Option<Ipv4Addr>,
    wait: Duration,
) -> io::Result<Option<Answer>> {
    let _alone = SPEAKING.lock().unwrap_or_else(PoisonError::into_inner);
    match server {
        Some(server) => ask(&socket()?, client, &Asked::Renewal(lease), server, wait),
        None => {
            let way = Broadcast::open(interface.index)?;
            ask(&way.0, client, &Asked::Renewal(lease), Ipv4Addr::BROADCAST, wait)
        }
    }
}

/// Asks and waits for an answer.
fn ask(
    socket: &UdpSocket,
    client: Client,
    asked: &Asked<'_>,
    to: Ipv4Addr,
    wait: Duration,
) -> io::Result<Option<Answer>> {
    let deadline = Instant::now() + wait;
    let number = message::number();
    socket.send_to(&client.message(asked, number), (to, SERVER_PORT))?;
    let mut buffer = [0; 1500];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left))?;
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let answer = client.answer(buffer.get(..length).unwrap_or_default(), number);
                if answer.is_some() {
                    return Ok(answer);
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(None);
            }
            // What a message before it met with.
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionRefused) => {}
            Err(error) => return Err(error),
        }
    }
}

fn socket() -> io::Result<UdpSocket> {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, CLIENT_PORT))
}

/// A socket whose messages to everybody leave by one interface, for as long as it is there.
struct Broadcast(UdpSocket, u32);

impl Broadcast {
    fn open(interface: u32) -> io::Result<Self> {
        let socket = socket()?;
        socket.set_broadcast(true)?;
        Netlink::open()?.add_broadcast_route(interface)?;
        Ok(Self(socket, interface))
    }
}

impl Drop for Broadcast {
    fn drop(&mut self) {
        let removed = Netlink::open().and_then(|netlink| netlink.remove_broadcast_route(self.1));
        if let Err(error) = removed {
            report::problem(&format!("removing the route to everybody: {error}"));
        }
    }
}
