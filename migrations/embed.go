// Package migrations holds the database schema, forward only, as numbered goose files.
package migrations

import "embed"

// FS has every NNNN_name.sql of this folder, in the order goose runs them.
//
//go:embed *.sql
var FS embed.FS
