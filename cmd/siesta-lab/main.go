//go:build devtee

// Command siesta-lab runs the demo: the simulated cloud, processor and issuer around the real daemon, and the story told
// on them. It exists in development builds only.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/eosc-siesta/siestad/internal/lab/stack"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	root := &cobra.Command{Use: "siesta-lab", Short: "The demo and its parts", SilenceErrors: true, SilenceUsage: true}
	var dir string
	root.PersistentFlags().StringVar(&dir, "dir", "var/demo", "directory of the demo")
	root.AddCommand(up(&dir), story(&dir), token(&dir), attack(&dir), psp(&dir))
	err := root.ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "siesta-lab:", err)
		os.Exit(1)
	}
}

func up(dir *string) *cobra.Command {
	var bin, guest, database string
	cmd := &cobra.Command{
		Use: "up", Short: "Start everything and stay until ended", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			logger, err := zap.NewProduction()
			if err != nil {
				return err
			}
			absolute, err := filepath.Abs(*dir)
			if err != nil {
				return err
			}
			s, err := stack.Start(cmd.Context(), stack.Config{Dir: absolute, Bin: bin, Guest: guest, Database: database, Logger: logger})
			if err != nil {
				return err
			}
			defer s.Close()
			<-cmd.Context().Done()
			return errors.Join(os.Remove(filepath.Join(absolute, "state.json")))
		},
	}
	cmd.Flags().StringVar(&bin, "bin", "bin/dev", "directory of the development programs")
	cmd.Flags().StringVar(&guest, "guest", "var/guest", "directory of the guest's kernel and initrd")
	cmd.Flags().StringVar(&database, "database", "", "connection string of the database")
	return cmd
}

func story(dir *string) *cobra.Command {
	var bin, guest string
	cmd := &cobra.Command{
		Use: "story", Short: "Tell the whole path on a running demo", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			state, err := stack.Open(*dir)
			if err != nil {
				return err
			}
			t := &stack.Teller{State: state, Dir: *dir, Bin: bin, Guest: guest, Out: os.Stdout}
			if err := t.Tell(cmd.Context()); err != nil {
				return err
			}
			env := fmt.Sprintf("export SIESTA_SERVER=%s SIESTA_ISSUER=%s IMAGE=%s\n", state.Server, state.Issuer, t.Image)
			return os.WriteFile(filepath.Join(*dir, "env"), []byte(env), 0o600)
		},
	}
	cmd.Flags().StringVar(&bin, "bin", "bin/dev", "directory of the development programs")
	cmd.Flags().StringVar(&guest, "guest", "var/guest", "directory of the guest's kernel and initrd")
	return cmd
}

func token(dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "token NAME", Short: "Print an access token of a test user (rita, carlo, olga, axel), good for an hour", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			state, err := stack.Open(*dir)
			if err != nil {
				return err
			}
			token, err := state.Token(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			fmt.Println(token)
			return nil
		},
	}
}

func attack(dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "attack clone|tamper WORKSPACE", Short: "Boot an altered guest behind the cloud's back", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			state, err := stack.Open(*dir)
			if err != nil {
				return err
			}
			console, err := state.Attack(cmd.Context(), stack.Attack(args[0]), args[1])
			if err != nil {
				return err
			}
			fmt.Print(console)
			return nil
		},
	}
}
