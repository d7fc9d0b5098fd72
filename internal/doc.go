// Package internal holds no code: its test keeps the rules of the house, which floor may import
// which, and which names are banned.
//
// To know the code in ten minutes, read docs/glossary.md, the drawings of docs/architecture.md, and then
// the package comments along the way of a token:
//
//	ingest     a push becomes an event
//	events     the messages between the processes: subjects, streams, rights
//	refresher  an event or a due message becomes a call to WeChat and a new token
//	account    what each thing that happens changes in the record of a key, without I/O
//	gate       whether that call may be made now
//	store      the record, its token and its schedule, stored together
//	client     what a service reads; package gateway has it for HTTP
//
// The other packages serve these, or the operator: docs/architecture.md lists all but those for tests alone.
package internal
