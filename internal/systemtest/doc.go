// Package systemtest holds the tests of the whole system: the fake platform, ingest, refreshers
// and readers around a real NATS server. It has no code of its own.
//
// # What the campaign looks at
//
// TestCampaign names what was broken by a number:
//
//	I1   valid when quiet     an authorized account has a token that WeChat accepts, unless a trouble explains it
//	I2   bounded gap          no reader is given an expired token when WeChat was away for less than 38 minutes
//	I3   exactly one event    a push that was answered with success is one message, no more and no less
//	I4   no step back         generations, and the age of the authorization, never go down; at the end WeChat takes the refresh token
//	I6   no storm             calls to WeChat stay within what the troubles explain; after "busy" no refresher asks at once
//	I7   cancelled stays      a cancelled account loses its token and gets none by itself
//	I9   newest ticket        the component_verify_ticket in use never gets older
//	I11  covered              each account has a schedule, or a due message that is not acked
//	T1   jsapi_ticket         an account for which one is asked has a good one, as I1
//	I12  no leak              no secret that the platform made is in a log, a metric, a status, a notice or, sealed, in a record
//
// "status", "ref", "link" and "dump" are the status of each key, the ref of each account, the end of each link
// and what an export holds, compared with what the day did.
//
// The numbers between are promises that tests of their own keep, and not the campaign: I5, what is stored
// is announced, by the server itself (TestClientUpdates in internal/clienttest); I8, a new authorization wins
// (TestReauthorizedWhileRenewing in internal/refresher); I10, one commit for each generation (TestConflict
// there, TestCommit in internal/store); I13, a dead account delays no other (TestOneAccountRefused); I14, no
// goroutine is left behind (goleak where a package starts some); I15, all comes back from WeChat's list
// (TestReconcileFromNothing, and TestProcesses on real processes); I16, readers agree with the
// bucket once troubles end (the end of each day, as I1).
//
// # What breaks them on purpose
//
// scripts/mutants says for each of its faults what is broken and which tests must notice.
package systemtest
