// Package preflight checks whether a process has all that it needs, and reports a line for each check, with its
// remedy: before the first start with --check, and for a running process at /check of its ops server. It changes
// nothing: it fetches no token, publishes only requests that read, and shows no secret. The report is in English
// or Chinese; the names of the checks and their marks are the same in both.
package preflight
