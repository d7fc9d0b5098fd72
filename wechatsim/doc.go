// Package wechatsim is a fake WeChat Open Platform to develop and test against: the paths, the
// errors and the encrypted pushes of the real one, for third-party platforms ("components").
// NOT FOR PRODUCTION: its secrets are fake, predictable and kept in memory only.
//
// A [Platform] has two doors. [Platform.Handler] is the platform's API with its authorization
// pages, strict about requests. [Platform.Control] is for the person or the test that plays
// merchant, operator and bad luck: authorize, cancel, push, fail. Each verb there is also a Go
// method.
//
// The platform keeps the truth about which token is valid now ([Platform.Truth],
// [Platform.Accepts]) and a history of what happened ([Platform.History]), in which secrets
// appear only as [Fingerprint]. Every secret it makes contains the text SEKRET, so that a leak is
// found with grep.
//
// The zero [Config] is well-behaved; [Unkind] adds what a network and a busy platform do to their
// callers. What is not known about the real platform (does a refresh token rotate? does an old
// ticket become invalid?) is a setting, and good code works with every value of it.
//
// It can run inside a testing/synctest bubble, if New is called there: it waits only with timers
// and channels, and all its goroutines have ended when Run returns.
package wechatsim
