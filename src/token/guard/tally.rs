//! The two counts that bear on every attempt, its account's and its secret's, asked and written
//! together. Pure.

use super::{Account, Answer, Ask, Counted, Limits, Now, Record, Value, Verdict};

/// What is counted for one key. The account is the first to be asked and the first to be written
/// down: a crash in between may count an attempt for the account that was never made, and never
/// forgets one that was.
pub struct Tally<'a> {
    pub account: &'a mut Account,
    pub record: &'a mut Record,
}

/// How a ledger calls the parts of a key.
#[derive(Debug, Clone, Copy)]
pub struct Whose<'a> {
    /// The secret with its token URL.
    pub record: &'a str,
    /// The secret, for its account: see [`Value`].
    pub value: &'a str,
    pub partition: Option<&'a str>,
}

impl Tally<'_> {
    /// May `ask` make an attempt? [`Answer::Go`] is not yet a spent attempt: see [`Tally::spend`].
    pub fn ask(&mut self, whose: Whose<'_>, limits: &Limits, ask: &Ask, now: Now) -> Answer {
        self.note(whose, limits, ask, now);
        match self
            .account
            .ask(value(self.record, whose, now), limits, ask, now)
        {
            Answer::Go => self.record.ask(whose.partition, limits, ask, now),
            other => other,
        }
    }

    /// Writes down who shares account and secret.
    pub fn note(&mut self, whose: Whose<'_>, limits: &Limits, ask: &Ask, now: Now) {
        self.account.note(limits, ask, now);
        self.record.note(limits, ask, now);
        if let Some((refused, last)) = self.record.join_account(self.account.max().is_some()) {
            self.account.take_over(whose.record, refused, last);
        }
    }

    /// Do those who share account or secret want a guard that outlives its process?
    #[must_use]
    pub fn need_memory(&self) -> bool {
        self.account.max().is_some() || self.record.hold() == super::Hold::UntilSecretChanges
    }

    /// Writes the attempt `id` down as spent.
    pub fn spend(&mut self, whose: Whose<'_>, id: u64, now: Now) {
        self.account.spend(value(self.record, whose, now), id, now);
        self.record.spend(whose.partition, id, now);
    }

    /// Writes down how the attempt `id` ended; `None`: that will never be known.
    pub fn settle(&mut self, whose: Whose<'_>, id: u64, verdict: Option<Verdict>, now: Now) {
        let Some(verdict) = verdict else {
            self.account.lose(id, now);
            return self.record.lose(whose.partition, id, now);
        };
        match verdict {
            Verdict::Success => self.account.succeeded(id),
            Verdict::RejectedForClock if self.account.max().is_some() => {
                self.account.rejected(id, now);
            }
            refused if self.record.blames_secret(whose.partition, refused) => {
                self.account.rejected(id, now);
            }
            _ => self.account.given_back(id),
        }
        self.record.settle(whose.partition, id, verdict, now);
    }

    /// A person lets one attempt through.
    pub fn unlatch(&mut self, whose: Whose<'_>) {
        self.account.unlatch();
        self.record.unlatch(whose.partition);
    }

    /// What is to be shown.
    #[must_use]
    pub fn status(account: &Account, record: &Record, whose: Whose<'_>, now: Now) -> Counted {
        account
            .status(value(record, whose, now), now)
            .and(record.status(whose.partition, now))
    }
}

fn value<'v>(record: &Record, whose: Whose<'v>, now: Now) -> Value<'v> {
    Value {
        name: whose.value,
        proven: record.is_proven(now),
    }
}
