// Package docs holds the runbook, so that the operator's page can show the entry that it points to: in the version that runs, and where
// no other server can be reached.
package docs

import "embed"

// Runbook has operations.md and operations.zh-CN.md.
//
//go:embed operations.md operations.zh-CN.md
var Runbook embed.FS
