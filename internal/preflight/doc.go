// Package preflight finds out what stands between a process and its work, line by line and each
// with its remedy: before the first start, with --check, and of a process that runs, at /check on
// its ops door. It changes nothing: no token is fetched, nothing is published but requests that
// only read, and no secret is shown. What it says is there in English and in Chinese; the names of
// the checks and their marks are the same in both.
package preflight
