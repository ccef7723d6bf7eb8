// Package postgres opens the database, runs transactions and migrations, and
// says whether the schema is the one this program was built for.
//
// It owns no table. Invariants: a transaction function either commits whole or
// leaves nothing; migrations run under one lock for the database; a program
// never creates or changes a schema by merely starting.
//
// It trusts the server it is told to connect to, and the connection string.
package postgres
