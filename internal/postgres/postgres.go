package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Session limits, unless the connection string sets its own. A transaction
// that sits idle keeps row locks that a key release may be waiting for.
const (
	idleInTransaction = 30 * time.Second
	statementTimeout  = 60 * time.Second
	connectTimeout    = 10 * time.Second
	defaultPoolSize   = 16
)

// Open connects a pool to the database and proves with one round trip that it
// answers. The schema is not looked at: see CheckSchema.
func Open(ctx context.Context, dsn string) (*pgxpool.Pool, error) {
	config, err := poolConfig(dsn)
	if err != nil {
		return nil, err
	}
	db, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("opening database: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if err := db.Ping(ctx); err != nil {
		db.Close()
		return nil, fmt.Errorf("reaching database: %w", err)
	}
	return db, nil
}

func poolConfig(dsn string) (*pgxpool.Config, error) {
	if dsn == "" {
		// An empty string would silently fall back to the libpq environment.
		return nil, errors.New("opening database: connection string is empty")
	}
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("reading connection string: %w", err)
	}
	if config.ConnConfig.DefaultQueryExecMode == pgx.QueryExecModeSimpleProtocol {
		return nil, errors.New("opening database: the simple query protocol is not supported, remove default_query_exec_mode")
	}
	set := func(name, value string) {
		if _, ok := config.ConnConfig.RuntimeParams[name]; !ok {
			config.ConnConfig.RuntimeParams[name] = value
		}
	}
	set("application_name", "siestad")
	set("timezone", "UTC")
	set("idle_in_transaction_session_timeout", milliseconds(idleInTransaction))
	set("statement_timeout", milliseconds(statementTimeout))
	// A zero MaxConns cannot come out of ParseConfig; its default follows the
	// number of CPUs, which says nothing about a server that waits for fsync.
	if config.MaxConns < defaultPoolSize && !strings.Contains(dsn, "pool_max_conns") {
		config.MaxConns = defaultPoolSize
	}
	return config, nil
}

func milliseconds(d time.Duration) string {
	return strconv.FormatInt(d.Milliseconds(), 10)
}

// InTx runs fn in one read-committed transaction: committed if fn returns nil,
// rolled back if it returns an error or panics. An error from the commit
// itself means that the outcome is unknown: read again before acting on it.
func InTx(ctx context.Context, db *pgxpool.Pool, fn func(tx pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, db, fn)
}
