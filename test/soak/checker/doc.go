// Package checker decides from outside whether a gateway kept its sessions: from a log of what was done to replicas, revisions,
// store and gateways, and from what clients observed.
//
// It imports nothing of Limpet and reads none of its headers: who answered is what the replica itself says. It promises to report
// every answer that no history of one holder per session explains, and to count whatever it excuses. It does not judge how long
// an answer took.
//
// # The rule
//
// A session has one holder, the replica that its requests go to. The holder changes only during a request of that session, and
// only at a moment at which the old holder may have been invalid: not listed, dead, drained past its deadline, or of a revision
// of weight 0. The new holder is one that may have been open to new sessions at that moment, and of the same revision if that was
// valid and surely had one. Each answer must come from the replica that is the holder at some moment between the request's being
// sent and its being answered. [Check] searches for such a history; where none exists it reports a misroute and goes on from there.
// The same rule holds for flows, with revisions in the place of replicas. A flow's holder shows in the answers to requests without
// a session, and to those by which a session came to its revision; any other session that brings a flow that is not bound, or no
// longer validly, binds it to its own revision.
//
// # What is excused
//
// Gateways learn of a change late. [Allowances] say how late: within an allowance both the old and the new state are possible.
// What was not answered (an error, a broken connection) may have moved the session if its holder may have been invalid.
//
// While the store is lost, and until it has settled, gateways cannot tell each other anything: each process is judged by what it
// knew when the store was lost and did since. One that did not know a session may place it afresh, but then has to keep to that;
// one that is started anew knows nothing. New sessions without flows are placed alike where nothing has changed lately.
// When the store has settled all have to agree: on the holder of before, if that was valid all the time and the store was not
// emptied, else on a place that one of them chose, even if that is gone by then. A session that no gateway knew when the store was
// emptied is placed afresh. [Report] counts each excuse.
//
// Start with [Check].
package checker
