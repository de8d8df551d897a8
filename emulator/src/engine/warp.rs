//! Operations of a warp: the lanes of a mask meet, and each takes its result along.

use std::fmt;

use super::failure::{Failure, Site};
use super::matrices::Words;
use crate::interface::FaultKind;

/// The operations of `shim/bridge.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Sync,
    Shuffle,
    Ballot,
    Match,
    Add,
    MinUnsigned,
    MaxUnsigned,
    MinSigned,
    MaxSigned,
    And,
    Or,
    Xor,
    /// Of matrices, by a function of its own.
    Exchange,
}

impl Operation {
    pub(super) fn from_number(number: u32) -> Self {
        use Operation::*;
        const ALL: [Operation; 12] =
            [Sync, Shuffle, Ballot, Match, Add, MinUnsigned, MaxUnsigned, MinSigned, MaxSigned, And, Or, Xor];
        ALL[number as usize]
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sync => "__syncwarp",
            Self::Shuffle => "a shuffle",
            Self::Ballot => "a vote",
            Self::Match => "__match_any_sync",
            Self::Exchange => "an operation on matrices",
            _ => "a warp reduction",
        })
    }
}

/// What a lane asks for.
#[derive(Clone, Copy)]
pub(super) struct Request {
    pub(super) mask: u32,
    pub(super) operation: Operation,
    pub(super) value: u64,
    /// The lane that a shuffle reads from.
    pub(super) source: u32,
    pub(super) site: Site,
}

/// Lanes that wait for the rest of their mask.
struct Meeting {
    request: Request,
    arrived: u32,
    values: [u64; 32],
    sources: [u8; 32],
}

/// The words of the lanes of an operation on matrices. There are two, taken in turn: until a lane has fetched
/// the words of one operation, nobody gets past the next.
#[derive(Default)]
struct Exchange {
    words: [[Words; 32]; 2],
    /// Which of them each lane gave its words to last.
    turns: [bool; 32],
}

/// A warp of the block that runs.
#[derive(Default)]
pub(super) struct Warp {
    /// The lanes that the block has.
    lanes: u32,
    exited: u32,
    meetings: Vec<Meeting>,
    exchange: Exchange,
}

/// A meeting that all lanes of its mask have reached.
pub(super) struct Met {
    pub(super) mask: u32,
    pub(super) operation: Operation,
    pub(super) results: [u64; 32],
}

/// The lanes of a mask, in order.
pub(super) fn lanes(mask: u32) -> impl Iterator<Item = u32> + Clone {
    (0..32).filter(move |lane| mask >> lane & 1 == 1)
}

impl Warp {
    /// Begins a block, in which the warp has so many lanes.
    pub(super) fn begin(&mut self, lanes: u32) {
        self.lanes = u32::MAX >> (32 - lanes);
        self.exited = 0;
        self.meetings.clear();
    }

    /// A lane gives its words, before it arrives.
    pub(super) fn give(&mut self, lane: u32, words: Words) {
        let Exchange { words: all, turns } = &mut self.exchange;
        let turn = &mut turns[lane as usize];
        *turn = !*turn;
        all[usize::from(*turn)][lane as usize] = words;
    }

    /// The words of all lanes, once they have met.
    pub(super) fn given(&self, lane: u32) -> [Words; 32] {
        self.exchange.words[usize::from(self.exchange.turns[lane as usize])]
    }

    /// A lane arrives. Returns the results once all have.
    pub(super) fn arrive(&mut self, thread: u32, request: Request) -> Result<Option<Met>, Box<Failure>> {
        let Request { mask, operation, value, source, site } = request;
        let lane = thread % 32;
        let wrong = |what: String| {
            let what = format!("{operation} with mask {mask:#010x}, {what},");
            Err(Failure::new(FaultKind::WarpMask, thread, site, what))
        };
        if mask >> lane & 1 == 0 {
            return wrong(format!("by lane {lane}, which is not in it"));
        }
        if let Some(absent) = lanes(mask & !self.lanes).next() {
            return wrong(format!("which names lane {absent}, which this block does not have"));
        }
        if let Some(gone) = lanes(mask & self.exited).next() {
            return wrong(format!("which names lane {gone}, which has exited"));
        }
        if operation == Operation::Shuffle && mask >> source & 1 == 0 {
            return wrong(format!("which reads from lane {source}, which is not in it"));
        }
        let place = self.meetings.iter().position(|m| m.request.mask == mask).unwrap_or_else(|| {
            self.meetings.push(Meeting { request, arrived: 0, values: [0; 32], sources: [0; 32] });
            self.meetings.len() - 1
        });
        let meeting = &mut self.meetings[place];
        let there = meeting.request;
        if there.site != site || there.operation != operation {
            let other = thread - lane + meeting.arrived.trailing_zeros();
            let what = format!("{operation} with mask {mask:#010x}");
            return Err(Failure::new(FaultKind::Divergence, thread, site, what).with(
                Some(other),
                there.site,
                format!("another lane of it waits in {}", there.operation),
            ));
        }
        meeting.arrived |= 1 << lane;
        meeting.values[lane as usize] = value;
        meeting.sources[lane as usize] = source as u8;
        if meeting.arrived != mask {
            return Ok(None);
        }
        let results = meeting.results();
        self.meetings.swap_remove(place);
        Ok(Some(Met { mask, operation, results }))
    }

    /// A lane has returned from the kernel.
    pub(super) fn exit(&mut self, thread: u32) -> Result<(), Box<Failure>> {
        let lane = thread % 32;
        self.exited |= 1 << lane;
        let Some(meeting) = self.meetings.iter().find(|m| m.request.mask >> lane & 1 == 1) else {
            return Ok(());
        };
        let Request { mask, operation, site, .. } = meeting.request;
        let waiting = thread - lane + meeting.arrived.trailing_zeros();
        let what = format!("{operation} with mask {mask:#010x}, which names lane {lane}, which has exited,");
        Err(Failure::new(FaultKind::WarpMask, waiting, site, what))
    }

    /// In words, what a lane waits for.
    pub(super) fn waiting(&self, thread: u32) -> Option<(Site, String)> {
        let meeting = self.meetings.iter().find(|m| m.arrived >> (thread % 32) & 1 == 1)?;
        let Request { mask, operation, site, .. } = meeting.request;
        Some((site, format!("in {operation} with mask {mask:#010x}")))
    }
}

impl Meeting {
    fn results(&self) -> [u64; 32] {
        let mask = self.request.mask;
        let value = |lane: u32| self.values[lane as usize];
        let each = |result: &dyn Fn(u32) -> u64| {
            let mut results = [0; 32];
            lanes(mask).for_each(|lane| results[lane as usize] = result(lane));
            results
        };
        let all = |next: &dyn Fn(u32, u32) -> u32| {
            let values = lanes(mask).map(|lane| value(lane) as u32);
            [u64::from(values.reduce(next).expect("a mask names its own lane")); 32]
        };
        let signed = |next: fn(i32, i32) -> i32| move |a: u32, b: u32| next(a as i32, b as i32) as u32;
        match self.request.operation {
            Operation::Sync | Operation::Exchange => [0; 32],
            Operation::Shuffle => each(&|lane| value(self.sources[lane as usize].into())),
            Operation::Ballot => [lanes(mask).map(|lane| value(lane) << lane).sum(); 32],
            Operation::Match => {
                each(&|lane| lanes(mask).filter(|&l| value(l) == value(lane)).map(|l| 1 << l).sum())
            }
            Operation::Add => all(&u32::wrapping_add),
            Operation::MinUnsigned => all(&u32::min),
            Operation::MaxUnsigned => all(&u32::max),
            Operation::MinSigned => all(&signed(i32::min)),
            Operation::MaxSigned => all(&signed(i32::max)),
            Operation::And => all(&|a, b| a & b),
            Operation::Or => all(&|a, b| a | b),
            Operation::Xor => all(&|a, b| a ^ b),
        }
    }
}
