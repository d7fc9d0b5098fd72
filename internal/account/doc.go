// Package account is the life of a credential: what it takes to get the next token of a key, and
// how each thing that happens to it changes it.
//
// It is pure. Nothing here reads a clock, asks WeChat or writes to NATS: what happened comes in,
// the changed record and what follows from it ([Next]) go out. The refresher loads a record, lets
// it happen here, and stores the result by compare-and-set; where that fails, another refresher was
// faster, and the record is loaded again.
//
// # The states
//
// A record has no field that names its state; the fields say it:
//
//	new                   no revision: nothing is stored yet
//	renewable             there is something to get a token with (Renewable)
//	claimed               a refresher is at it, for ClaimFor at most (ClaimedAt)
//	in trouble            Trouble is not empty: the last renewal failed, RetryAt is when the next may start
//	sought                its refresh token was refused or never came, and is looked for (SoughtAt)
//	authorization needed  only the merchant can help (AuthorizationNeeded)
//	cancelled             RevokedAt is set
//
// [Outline.State] makes of it what the status says.
//
// # What happens
//
//	a renewal        Claimed, GivenBack, Renewed, Failed, WasForced
//	an authorization Authorized, Dated, Told, Cancelled, FoundCancelled, Doubted
//	WeChat's list    Against, Listed, ListedWithout, Dated
//	a refused or lost refresh token  Asked, RefreshTokenTold, Sought, NotFound, GaveUp, Found, Restored
//	a component      TicketReceived, TokenRefused
//	a derived ticket Kept, Dropped
//	moving in        Imported
//
// testdata/life.txt has each state against each of these, with its outcome. It is made by a test: a
// change of it is a change of what merchants, services and operators see, so read the difference.
package account
