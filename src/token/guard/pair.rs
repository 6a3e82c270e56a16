//! The two counts that bear on every attempt, its account's and its secret's, asked and written
//! together. Pure.

use super::{
    account::{AccountRecord, AttemptedSecret},
    decision::{AttemptOutcome, AttemptRequest, GuardDecision, GuardStatus},
    record::SecretRecord,
};
use crate::{
    clock::BootInstant,
    token::policy::{Hold, LockoutPolicy},
};

/// What is counted for one key. The account is the first to be asked and the first to be written
/// down: a crash in between may count an attempt for the account that was never made, and never
/// forgets one that was.
pub struct CountPair<'a> {
    /// What counts for the account.
    pub account: &'a mut AccountRecord,
    /// What counts for the secret and its partitions.
    pub record: &'a mut SecretRecord,
}

/// How a ledger calls the parts of a key.
#[derive(Debug, Clone, Copy)]
pub struct KeyLabels<'a> {
    /// The secret with its token URL.
    pub record: &'a str,
    /// The secret, for its account: see [`AttemptedSecret`].
    pub value: &'a str,
    /// The partition, where only it may be at fault.
    pub partition: Option<&'a str>,
}

impl CountPair<'_> {
    /// May `request` make an attempt? `Ok` is not yet a spent attempt: see [`CountPair::spend`].
    pub fn decide(
        &mut self,
        labels: KeyLabels<'_>,
        limits: &LockoutPolicy,
        request: &AttemptRequest,
        now: BootInstant,
    ) -> GuardDecision {
        self.note_sharer(labels, limits, request, now);
        self.account
            .decide(value(self.record, labels, now), limits, request, now)?;
        self.record.decide(labels.partition, limits, request, now)
    }

    /// Writes down who shares account and secret.
    pub fn note_sharer(
        &mut self,
        labels: KeyLabels<'_>,
        limits: &LockoutPolicy,
        request: &AttemptRequest,
        now: BootInstant,
    ) {
        self.account.note_sharer(limits, request, now);
        self.record.note_sharer(limits, request, now);
        if let Some((refused, last)) = self.record.join_account(self.account.max().is_some()) {
            self.account.take_over(labels.record, refused, last);
        }
    }

    /// Do those who share account or secret want a guard that outlives its process?
    #[must_use]
    pub fn need_memory(&self) -> bool {
        self.account.max().is_some() || self.record.hold() == Hold::UntilSecretChanges
    }

    /// Writes the attempt `id` down as spent.
    pub fn spend(&mut self, labels: KeyLabels<'_>, id: u64, now: BootInstant) {
        self.account.spend(value(self.record, labels, now), id, now);
        self.record.spend(labels.partition, id, now);
    }

    /// Writes down how the attempt `id` ended; `None`: that will never be known.
    pub fn settle(
        &mut self,
        labels: KeyLabels<'_>,
        id: u64,
        outcome: Option<AttemptOutcome>,
        now: BootInstant,
    ) {
        let Some(outcome) = outcome else {
            self.account.lose(id, now);
            return self.record.lose(labels.partition, id, now);
        };
        match outcome {
            AttemptOutcome::Success => self.account.succeeded(id),
            AttemptOutcome::RejectedForClock if self.account.max().is_some() => {
                self.account.rejected(id, now);
            }
            refused if self.record.blames_secret(labels.partition, refused) => {
                self.account.rejected(id, now);
            }
            _ => self.account.given_back(id),
        }
        self.record.settle(labels.partition, id, outcome, now);
    }

    /// A person lets one attempt through.
    pub fn unlatch(&mut self, labels: KeyLabels<'_>) {
        self.account.unlatch();
        self.record.unlatch(labels.partition);
    }

    /// What is to be shown.
    #[must_use]
    pub fn status(
        account: &AccountRecord,
        record: &SecretRecord,
        labels: KeyLabels<'_>,
        now: BootInstant,
    ) -> GuardStatus {
        account
            .status(value(record, labels, now), now)
            .and(record.status(labels.partition, now))
    }
}

fn value<'v>(
    record: &SecretRecord,
    labels: KeyLabels<'v>,
    now: BootInstant,
) -> AttemptedSecret<'v> {
    AttemptedSecret {
        name: labels.value,
        proven: record.is_proven(now),
    }
}
