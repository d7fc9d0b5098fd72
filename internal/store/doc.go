// Package store reads and writes the stored records: tokens, credentials, statuses.
//
// The credential decides about its key. Every save is a compare-and-set: it names the revision that
// it is based on, and a save that comes late is refused with [ErrLost]. A renewal is one atomic
// batch of credential, token and schedule: all of it is stored, or nothing is.
//
// A claim on a credential says which refresher is about to change it. It keeps two refreshers from
// asking WeChat at the same time; the revision keeps a late one from storing anything.
package store
