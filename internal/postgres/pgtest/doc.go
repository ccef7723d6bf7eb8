// Package pgtest gives every test a database of its own on a real PostgreSQL
// with default durable settings.
//
// The first call in a process makes a private cluster from the newest server
// under /usr/lib/postgresql, reached only through a Unix socket in a temporary
// directory. It migrates one template database, named by the hash of the
// migrations, and copies it for each test. Nothing is shared between processes,
// unless the environment says so (Borrow), so packages may be tested side by side. A small watcher process stops the
// server and removes its files when the test process is gone, however it ended.
//
// A missing server fails the test: nothing here ever skips.
package pgtest
