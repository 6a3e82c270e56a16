//! What may happen to keepers, one thing after the other.

use proptest::prelude::*;

use super::KEEPERS;
use crate::token::failure::FailureClass;

#[derive(Debug, Clone)]
pub(super) enum Step {
    Pass(u64),
    Suspend(u64),
    /// From now on its calls end so.
    Reply(usize, Ends),
    Takes(usize, u64),
    Unreadable(usize, bool),
    /// The API refuses the current generation, or one so much older.
    Refuse(usize, u64),
    Accept(usize),
    RefreshMode(usize),
    Unlatch(usize),
    /// A new secret for the parent and who shares it, or for the child.
    Rotate(bool),
    Retune(usize, u8),
    Arrive(usize, u64, bool),
    /// The oldest waiter hangs up.
    Leave,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Ends {
    Token(u64),
    Same(u64),
    Fails(FailureClass, Option<u64>),
    /// In the middle of the call: nobody will ever know what the endpoint made of it.
    Panics,
}

pub(super) fn steps() -> impl Strategy<Value = Step> {
    let k = || 0..KEEPERS;
    let class = || {
        prop_oneof![
            Just(FailureClass::Retry),
            Just(FailureClass::Throttled),
            Just(FailureClass::Rejected),
            Just(FailureClass::Config)
        ]
    };
    let ends = prop_oneof![
        4 => (1..2000u64).prop_map(Ends::Token),
        1 => (1..600u64).prop_map(Ends::Same),
        4 => (class(), proptest::option::of(0..200u64)).prop_map(|(c, w)| Ends::Fails(c, w)),
        1 => Just(Ends::Panics),
    ];
    prop_oneof![
        8 => prop_oneof![1..1000u64, 1000..60_000u64, 60_000..400_000u64].prop_map(Step::Pass),
        1 => (1..7_200_000u64).prop_map(Step::Suspend),
        6 => (k(), ends).prop_map(|(k, e)| Step::Reply(k, e)),
        1 => (k(), 1..12_000u64).prop_map(|(k, t)| Step::Takes(k, t)),
        1 => (k(), any::<bool>()).prop_map(|(k, u)| Step::Unreadable(k, u)),
        3 => (k(), 0..3u64).prop_map(|(k, age)| Step::Refuse(k, age)),
        1 => k().prop_map(Step::Accept),
        2 => k().prop_map(Step::RefreshMode),
        1 => k().prop_map(Step::Unlatch),
        1 => any::<bool>().prop_map(Step::Rotate),
        1 => (k(), 0..4u8).prop_map(|(k, t)| Step::Retune(k, t)),
        4 => (k(), 1..120_000u64, any::<bool>()).prop_map(|(k, p, fresh)| Step::Arrive(k, p, fresh)),
        1 => Just(Step::Leave),
    ]
}
