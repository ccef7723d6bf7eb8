package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/collateral"
	"github.com/eosc-siesta/siestad/internal/keybroker"
	"github.com/eosc-siesta/siestad/internal/postgres"
)

// collateralService keeps what vendors say, beginning with the objects that the configuration names.
func collateralService(c *Config, db *pgxpool.Pool, recorder *audit.Recorder, logger *zap.Logger, metrics prometheus.Registerer) (*collateral.Service, error) {
	roots, err := c.roots()
	if err != nil {
		return nil, err
	}
	config := collateral.Config{DB: db, Audit: recorder, Roots: roots, Logger: logger, Grace: c.Collateral.Grace, Budget: c.Collateral.Budget, Metrics: metrics}
	if c.Collateral.KDSURL != "" || c.Collateral.PCSURL != "" {
		config.Vendor = &collateral.HTTPVendor{KDS: c.Collateral.KDSURL, PCS: c.Collateral.PCSURL, RootCRL: c.Collateral.RootCRLURL, Now: time.Now}
	}
	add := func(kind, file string) error {
		der, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("reading %s of the configuration: %w", kind, err)
		}
		config.Base = append(config.Base, attest.Object{Kind: kind, Bytes: der})
		return nil
	}
	for _, file := range c.Attestation.RevocationLists {
		if err := add(attest.KindAMDCRL, file); err != nil {
			return nil, err
		}
	}
	for _, s := range c.Sites {
		for _, chip := range s.Chips {
			if chip.VCEKFile == "" {
				continue
			}
			if err := add(attest.KindVCEK, chip.VCEKFile); err != nil {
				return nil, err
			}
		}
	}
	return collateral.New(config)
}

// known answers the broker from memory. What is missing does not end there: the verdict refuses for the same reason, with
// every check listed, and can be replayed.
func known(c *Config, service *collateral.Service) func(context.Context, keybroker.CollateralQuery) (attest.Collateral, error) {
	configured := map[string]bool{}
	for _, s := range c.Sites {
		configured[s.Name] = true
	}
	return func(ctx context.Context, q keybroker.CollateralQuery) (attest.Collateral, error) {
		if !configured[q.Site] {
			return attest.Collateral{}, fmt.Errorf("site %s is not configured", q.Site)
		}
		col, _, err := service.For(ctx, q.Project, q.Evidence)
		var missing *attest.Refusal
		if errors.As(err, &missing) {
			return col, nil
		}
		return col, err
	}
}

// registered is what the configured chips and platforms need, of the vendors that may be asked.
func registered(c *Config) ([]attest.Subject, error) {
	all, err := registeredChips(c)
	return append(all, registeredPlatforms(c)...), err
}

// registeredPlatforms is what Intel says of them. The kind of a platform without FMSPC is looked up when it first reports.
func registeredPlatforms(c *Config) (all []attest.Subject) {
	if c.Collateral.PCSURL == "" {
		return nil
	}
	for _, s := range c.Sites {
		for _, p := range s.Platforms {
			for _, need := range attest.PlatformNeeds(p.FMSPC, true) {
				if need.Key != "" && !slices.Contains(all, need) {
					all = append(all, need)
				}
			}
		}
	}
	return all
}

// registeredChips is what AMD says of them. A chip without product and TCB is looked up when it first reports.
func registeredChips(c *Config) ([]attest.Subject, error) {
	var all []attest.Subject
	if c.Collateral.KDSURL == "" {
		return nil, nil
	}
	for line := range c.Attestation.MinTCB {
		all = append(all, attest.Subject{Kind: attest.KindAMDCRL, Key: line}, attest.Subject{Kind: attest.KindAMDChain, Key: line})
	}
	for _, s := range c.Sites {
		for _, chip := range s.Chips {
			if chip.Product == "" || chip.TCB == nil {
				continue
			}
			id, err := hex.DecodeString(chip.ID)
			if err != nil {
				return nil, fmt.Errorf("site %s: chip id: %w", s.Name, err)
			}
			all = append(all, attest.VCEKSubject(chip.Product, id, *chip.TCB))
		}
	}
	return all, nil
}

// collateralCommand is for sites that do not let this program out: what vendors say comes and goes in files.
func collateralCommand(out io.Writer) *cobra.Command {
	var config string
	root := &cobra.Command{Use: "collateral", Short: "What processor vendors say of the hardware: import, export, list"}
	root.PersistentFlags().StringVar(&config, "config", "/etc/siestad/siestad.yaml", "configuration file")
	with := func(use, short string, args cobra.PositionalArgs, open func(context.Context, *pgxpool.Pool, *Config) (*audit.Recorder, error), run func(context.Context, *collateral.Service, []string) error) {
		root.AddCommand(&cobra.Command{Use: use, Short: short, Args: args, RunE: func(cmd *cobra.Command, args []string) error {
			c, err := loadConfig(config)
			if err != nil {
				return err
			}
			dsn, err := c.Database.dsn()
			if err != nil {
				return err
			}
			db, err := postgres.Open(cmd.Context(), dsn)
			if err != nil {
				return err
			}
			defer db.Close()
			if err := postgres.CheckSchema(cmd.Context(), db); err != nil {
				return err
			}
			recorder, err := open(cmd.Context(), db, c)
			if err != nil {
				return err
			}
			service, err := collateralService(c, db, recorder, zap.NewNop(), nil)
			if err != nil {
				return err
			}
			return run(cmd.Context(), service, args)
		}})
	}
	records := func(ctx context.Context, db *pgxpool.Pool, c *Config) (*audit.Recorder, error) {
		key, err := readKey(c.Log.KeyFile)
		if err != nil {
			return nil, err
		}
		return audit.OpenRecorder(ctx, db, c.Log.Origin, key)
	}
	reads := func(context.Context, *pgxpool.Pool, *Config) (*audit.Recorder, error) {
		return &audit.Recorder{}, nil // it refuses every entry
	}
	with("import FILE", "Store a bundle: all of its objects, or none", cobra.ExactArgs(1), records, func(ctx context.Context, s *collateral.Service, args []string) error {
		file, err := os.Open(args[0])
		if err != nil {
			return fmt.Errorf("reading bundle: %w", err)
		}
		defer file.Close()
		n, err := s.Import(ctx, file, audit.Actor{Kind: audit.Service, Subject: "siestad collateral import"})
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%d objects are stored.\n", n)
		return nil
	})
	with("export FILE", "Write what is in force into a bundle", cobra.ExactArgs(1), reads, func(ctx context.Context, s *collateral.Service, args []string) error {
		file, err := os.OpenFile(args[0], os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return fmt.Errorf("writing bundle: %w", err)
		}
		return errors.Join(s.Export(ctx, file), file.Close())
	})
	with("list", "Say what is kept, and until when it holds", cobra.NoArgs, reads, func(ctx context.Context, s *collateral.Service, _ []string) error {
		items, err := s.List(ctx)
		if err != nil {
			return err
		}
		table := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
		fmt.Fprintln(table, "STATE\tKIND\tKEY\tUNTIL\tSHA-256")
		for _, i := range items {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", i.State, i.Kind, i.Key, i.Until.UTC().Format(time.RFC3339), i.Digest)
		}
		return table.Flush()
	})
	return root
}
