package keybroker

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/permit"
)

// HostOf names the machine of a chip at a site; "" when the chip is not known there.
type HostOf func(site, chip string) string

// Hit is a workspace that a quarantine found: with the lease that it ended, or armed and holding no key.
type Hit struct {
	Workspace  string `json:"workspace"`
	Project    string `json:"project"`
	Site       string `json:"site"`
	Generation int    `json:"generation"`
	Lease      string `json:"lease,omitempty"`
	Chip       string `json:"chip,omitempty"`
	Host       string `json:"host,omitempty"`
}

// quarantineGate lets one quarantine at a time lock many arms, so that two never wait for each other.
const quarantineGate = 0x71756172 // "quar"

const maxQuarantineRounds = 8

// Quarantine ends every live lease that kind and value name and reports what it found. place puts up the freeze that
// refuses everything from the commit on; it waits for the releases under way, and it is asked again when those have made
// leases that were not seen before.
//
// Arms are locked before the freeze is placed, in the order of every other transaction here: a release takes its arm, then
// its lease, then the gate of the freezes. A lease that appeared while the gate was waited for belongs to an arm that is
// not locked yet, so the gate is given back (the savepoint) before that arm is taken.
func Quarantine(ctx context.Context, tx pgx.Tx, hosts HostOf, kind permit.FreezeKind, value string,
	place func(ctx context.Context, tx pgx.Tx) (why string, err error),
) ([]Hit, error) {
	doing := func(err error) error { return fmt.Errorf("ending leases of %s %s: %w", kind, value, err) }
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, quarantineGate); err != nil {
		return nil, doing(err)
	}
	locked := map[string]bool{}
	for range maxQuarantineRounds {
		hits, err := findHits(ctx, tx, hosts, kind, value)
		if err != nil {
			return nil, doing(err)
		}
		for _, h := range hits {
			if !locked[h.Workspace] {
				if _, err := lockArms(ctx, tx, h.Workspace); err != nil {
					return nil, doing(err)
				}
				locked[h.Workspace] = true
			}
		}
		point, err := tx.Begin(ctx)
		if err != nil {
			return nil, doing(err)
		}
		why, err := place(ctx, point)
		if err != nil {
			return nil, doing(errors.Join(err, point.Rollback(ctx)))
		}
		if hits, err = findHits(ctx, point, hosts, kind, value); err != nil {
			return nil, doing(errors.Join(err, point.Rollback(ctx)))
		}
		if slices.ContainsFunc(hits, func(h Hit) bool { return !locked[h.Workspace] }) {
			if err := point.Rollback(ctx); err != nil {
				return nil, doing(err)
			}
			continue
		}
		if err := endHits(ctx, point, hits, why); err != nil {
			return nil, doing(errors.Join(err, point.Rollback(ctx)))
		}
		if err := point.Commit(ctx); err != nil {
			return nil, doing(err)
		}
		return hits, nil
	}
	return nil, doing(fmt.Errorf("%w: new leases appear faster than they can be locked", ErrBusy))
}

// findHitsQuery sees the live leases, and the guests that are armed for what is known of them before they boot: their
// image and their key.
const findHitsQuery = `SELECT v.workspace, v.project, v.site, coalesce(l.generation, a.generation), coalesce(l.id, ''), coalesce(l.chip, '')
	FROM broker_volume v
	LEFT JOIN broker_arm a ON a.workspace = v.workspace AND a.state <> 'disarmed'
	LEFT JOIN broker_lease l ON l.workspace = v.workspace AND l.state = 'live' AND l.until > now()
	LEFT JOIN broker_arm held ON held.workspace = l.workspace AND held.generation = l.generation
	LEFT JOIN broker_key k ON k.workspace = v.workspace AND k.state = 'active'
	WHERE (a.workspace IS NOT NULL OR l.id IS NOT NULL) AND CASE $1::text
		WHEN 'chip' THEN l.chip = $2
		WHEN 'product' THEN l.product = $2
		WHEN 'host' THEN l.id IS NOT NULL AND v.site = split_part($2, '/', 1)
		WHEN 'image' THEN a.image = $2 OR held.image = $2
		WHEN 'key' THEN v.workspace || '/' || k.version = $2
		ELSE false END
	ORDER BY v.workspace, l.id`

func findHits(ctx context.Context, tx pgx.Tx, hosts HostOf, kind permit.FreezeKind, value string) ([]Hit, error) {
	rows, err := tx.Query(ctx, findHitsQuery, kind, value)
	if err != nil {
		return nil, fmt.Errorf("looking for leases: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (h Hit, err error) {
		err = row.Scan(&h.Workspace, &h.Project, &h.Site, &h.Generation, &h.Lease, &h.Chip)
		return h, err
	})
	if err != nil {
		return nil, fmt.Errorf("looking for leases: %w", err)
	}
	for i := range list {
		if hosts != nil && list[i].Chip != "" {
			list[i].Host = hosts(list[i].Site, list[i].Chip)
		}
	}
	if kind == "host" {
		list = slices.DeleteFunc(list, func(h Hit) bool { return hostName(h.Site, h.Host) != value })
	}
	return list, nil
}

func endHits(ctx context.Context, tx pgx.Tx, hits []Hit, why string) error {
	var leases []string
	for _, h := range hits {
		if h.Lease != "" {
			leases = append(leases, h.Lease)
		}
	}
	if _, err := tx.Exec(ctx, `UPDATE broker_lease SET state = 'ended', ended_why = $2, sealed_enc = NULL, sealed_text = NULL
		WHERE id = ANY ($1) AND state = 'live'`, leases, bound(why)); err != nil {
		return fmt.Errorf("ending leases: %w", err)
	}
	return nil
}

// hostName is a machine as freezes name it; "" for one that is not known.
func hostName(site, host string) string {
	if host == "" {
		return ""
	}
	return site + "/" + host
}
