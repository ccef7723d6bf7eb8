package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// tick is the unit of /proc/<pid>/stat on Linux.
const tick = 10 * time.Millisecond

// processor returns the processor time that this process and every process of
// the database have used so far. Unlike the rate it does not depend on what
// else the machine is doing.
func (b *bench) processor(ctx context.Context) (time.Duration, error) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0, fmt.Errorf("reading own processor time: %w", err)
	}
	total := time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	rows, err := b.db.Query(ctx, `SELECT pid FROM pg_stat_activity`)
	if err != nil {
		return 0, fmt.Errorf("listing database processes: %w", err)
	}
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		return 0, fmt.Errorf("listing database processes: %w", err)
	}
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // it ended meanwhile
		}
		// The name before the last parenthesis may hold anything.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(fields) < 13 {
			return 0, fmt.Errorf("reading processor time of process %d: too few fields", pid)
		}
		for _, field := range fields[11:13] { // user and system
			ticks, err := strconv.ParseInt(field, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("reading processor time of process %d: %w", pid, err)
			}
			total += time.Duration(ticks) * tick
		}
	}
	return total, nil
}
