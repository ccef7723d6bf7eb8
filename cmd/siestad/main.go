// Command siestad is the daemon: the control plane of confidential workspaces on OpenStack clouds.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/eosc-siesta/siestad/internal/postgres"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := newRoot(os.Stdout, os.Stderr).ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "siestad:", err)
		os.Exit(1)
	}
}

func newRoot(out, errOut io.Writer) *cobra.Command {
	var config string
	root := &cobra.Command{
		Use:           "siestad",
		Short:         "The control plane of confidential workspaces",
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRun: func(*cobra.Command, []string) {
			fmt.Fprint(errOut, banner)
		},
	}
	root.SetOut(out)
	root.SetErr(errOut)
	withConfig := func(use, short string, run func(context.Context, *Config) error) *cobra.Command {
		cmd := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadConfig(config)
			if err != nil {
				return err
			}
			return run(cmd.Context(), c)
		}}
		cmd.Flags().StringVar(&config, "config", "/etc/siestad/siestad.yaml", "configuration file")
		return cmd
	}
	root.AddCommand(
		withConfig("serve", "Serve until told to stop", serve),
		withConfig("migrate", "Bring the database's schema to this version, forward only", func(ctx context.Context, c *Config) error {
			dsn, err := c.Database.dsn()
			if err != nil {
				return err
			}
			return migrate(ctx, dsn)
		}),
		withConfig("check-config", "Say everything that is wrong with the configuration", func(context.Context, *Config) error {
			fmt.Fprintln(out, "The configuration is good.")
			return nil
		}),
		keysCommand(out),
		collateralCommand(out),
	)
	return root
}

// migrate says what to do when Postgres is away.
func migrate(ctx context.Context, dsn string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	if err := postgres.Migrate(ctx, dsn); err != nil {
		return fmt.Errorf("%w\n  next: see that Postgres runs and that database.connection is right, then run siestad migrate again", err)
	}
	return nil
}

// tokenCommand makes the first root in the token of a configuration that is not complete yet in nothing but that.
func tokenCommand(out io.Writer) *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use: "init-token", Short: "Make the first root in the configuration's PKCS#11 token; never touches one that exists", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := loadConfig(config)
			if err != nil {
				return err
			}
			if c.Keyring.PKCS11 == (PKCS11Config{}) {
				return errors.New("the configuration names no token: fill in keyring.pkcs11 first")
			}
			if err := createToken(c); err != nil {
				return err
			}
			fmt.Fprintf(out, "The first root of installation %s is in token %s.\n", c.Installation, c.Keyring.PKCS11.Token)
			return nil
		},
	}
	cmd.Flags().StringVar(&config, "config", "/etc/siestad/siestad.yaml", "configuration file")
	return cmd
}

func keysCommand(out io.Writer) *cobra.Command {
	keys := &cobra.Command{Use: "keys", Short: "Make the keys that the configuration names"}
	var origin string
	cmd := &cobra.Command{
		Use: "init DIR", Short: "Make broker key, log key, token key and keyring; never touches what exists", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if !originPattern.MatchString(origin) {
				return errors.New("--origin: name the log as the configuration will, such as siesta.example.org/log")
			}
			return initKeys(args[0], origin, out)
		},
	}
	cmd.Flags().StringVar(&origin, "origin", "", "name of the audit log (log.origin)")
	tokens := &cobra.Command{
		Use: "token FILE", Short: "Make a key that signs attestation results; never touches what exists", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return writeTokenKey(args[0]) },
	}
	keys.AddCommand(cmd, tokens, tokenCommand(out))
	return keys
}
