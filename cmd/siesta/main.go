// Command siesta is the command line for people and scripts: the same API that portals use, as tables or as JSON.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run returns the exit code. An error may quote what any server answered, so all of them are made plain here.
func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	root := newRoot(out, errOut)
	root.SetArgs(args)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(errOut, "siesta:", plainLines(err.Error()))
		return 1
	}
	return 0
}

// app is what the commands share.
type app struct {
	out, err io.Writer
	server   string
	format   string
}

func newRoot(out, errOut io.Writer) *cobra.Command {
	a := &app{out: out, err: errOut}
	root := &cobra.Command{
		Use:           "siesta",
		Short:         "Confidential workspaces on research clouds",
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if a.server == "" {
				a.server = os.Getenv("SIESTA_SERVER")
			}
			if a.format != "table" && a.format != "json" {
				return fmt.Errorf("-o %s: the output is either table or json", a.format)
			}
			return nil
		},
	}
	root.SetOut(out)
	root.SetErr(errOut)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w\n  next: see `%s --help`", err, cmd.CommandPath())
	})
	root.PersistentFlags().StringVar(&a.server, "server", "", "URL of the service (default: $SIESTA_SERVER, else that of the login)")
	root.PersistentFlags().StringVarP(&a.format, "output", "o", "table", "table, or json for scripts")
	root.AddCommand(a.login(), a.logout(), a.workspace(), a.operation(), a.explain(), a.image(), a.endorsement(), a.project(), a.dataset(), a.permit(), a.freeze(), a.policy(), a.decision(), a.quarantine(), a.floor(), a.site(), a.audit(), a.me())
	sayUsage(root)
	return root
}

// sayUsage lets every command say how it is called when it is called wrongly. Cobra counts arguments without naming them,
// and takes an unknown verb for a wish for help, which it grants with success.
func sayUsage(cmd *cobra.Command) {
	if !cmd.HasSubCommands() {
		right := cmd.Args
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if right(cmd, args) == nil {
				return nil
			}
			takes, given := "no argument", "nothing"
			if _, names, _ := strings.Cut(cmd.Use, " "); names != "" {
				takes = names
			}
			if len(args) > 0 {
				given = strings.Join(args, " ")
			}
			return fmt.Errorf("%s takes %s, and was given %s\n  next: see `%[1]s --help`", cmd.CommandPath(), takes, given)
		}
		return
	}
	var verbs []string
	for _, sub := range cmd.Commands() {
		sayUsage(sub)
		verbs = append(verbs, sub.Name())
	}
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		return fmt.Errorf("%s has no command %q\n  next: write one of %s", cmd.CommandPath(), args[0], strings.Join(verbs, ", "))
	}
}

// require marks flags without which a command does nothing.
func require(cmd *cobra.Command, flags ...string) {
	for _, name := range flags {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // the caller has defined it
		}
	}
}

func (a *app) printer() printer { return printer{out: a.out, json: a.format == "json"} }

// connect returns the service with the caller's token.
func (a *app) connect(context.Context) (api, error) {
	s, err := loadSession()
	if err != nil {
		return api{}, err
	}
	server := a.server
	if server == "" {
		server = s.Server
	}
	if server == "" {
		return api{}, errors.New("no server: give --server, set SIESTA_SERVER, or run `siesta login --server URL`")
	}
	if u, err := url.Parse(server); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return api{}, fmt.Errorf("the server %q is no URL: write https://HOST, in --server or SIESTA_SERVER", server)
	}
	return api{server: server, token: s.bearer}, nil
}

func (a *app) login() *cobra.Command {
	var s session
	var secretFile string
	cmd := &cobra.Command{
		Use:   "login",
		Short: "Log in with a browser (device flow), or with a client secret in scripts",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s.Server = a.server
			if s.Server == "" || s.Issuer == "" {
				return errors.New("login needs --server and --issuer")
			}
			var err error
			if secretFile != "" {
				s.Token, err = secretLogin(cmd.Context(), s, secretFile)
			} else {
				s.Token, err = deviceLogin(cmd.Context(), s, a.err)
			}
			if err != nil {
				return err
			}
			if err := s.save(); err != nil {
				return err
			}
			fmt.Fprintln(a.err, "Logged in.")
			return nil
		},
	}
	cmd.Flags().StringVar(&s.Issuer, "issuer", os.Getenv("SIESTA_ISSUER"), "URL of the OpenID issuer")
	cmd.Flags().StringVar(&s.ClientID, "client-id", "siesta-cli", "client to log in as")
	cmd.Flags().StringVar(&secretFile, "client-secret-file", "", "log in as a service account; the file holds its secret")
	return cmd
}

func (a *app) logout() *cobra.Command {
	return &cobra.Command{
		Use: "logout", Short: "Forget the login", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			path, err := sessionPath()
			if err != nil {
				return err
			}
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("forgetting the login: %w", err)
			}
			return nil
		},
	}
}
