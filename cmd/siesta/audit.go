package main

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

type entryView struct {
	Index   int64     `json:"index"`
	At      time.Time `json:"at"`
	Action  string    `json:"action"`
	Object  string    `json:"object"`
	Outcome string    `json:"outcome"`
	Code    string    `json:"code"`
}

type meView struct {
	Subject string   `json:"subject"`
	Name    string   `json:"name"`
	Kind    string   `json:"kind"`
	Roles   []string `json:"roles"`
}

type siteView struct {
	Name    string   `json:"name"`
	TEE     string   `json:"tee"`
	Flavors []string `json:"flavors"`
	Health  string   `json:"health"`
}

type preflightView struct {
	Checks []struct {
		Name   string `json:"name"`
		OK     bool   `json:"ok"`
		Detail string `json:"detail"`
		Fix    string `json:"fix"`
	} `json:"checks"`
}

func (a *app) me() *cobra.Command {
	return &cobra.Command{
		Use: "me", Short: "Show who you are to the service", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			service, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			_, body, err := get[meView](cmd.Context(), service, "/v1/me", nil)
			if err != nil {
				return err
			}
			return show(func(m meView) []string {
				return []string{"subject", m.Subject, "name", m.Name, "kind", m.Kind, "roles", strings.Join(m.Roles, ", ")}
			})(a.printer(), body)
		},
	}
}

func (a *app) site() *cobra.Command {
	cmd := &cobra.Command{Use: "site", Short: "List the clouds and check them"}
	cmd.AddCommand(&cobra.Command{Use: "list", Short: "List sites", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		return list(cmd.Context(), a, "/v1/sites", url.Values{}, []string{"NAME", "TEE", "HEALTH", "FLAVORS"}, func(v siteView) []string {
			return []string{v.Name, v.TEE, v.Health, strings.Join(v.Flavors, ", ")}
		})
	}}, &cobra.Command{
		Use: "preflight NAME", Short: "Check a site now: what is wrong, and who can mend it", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			service, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			report, body, err := get[preflightView](cmd.Context(), service, "/v1/sites/"+url.PathEscape(args[0])+"/preflight", nil)
			if err != nil {
				return err
			}
			if a.printer().json {
				return a.printer().raw(body)
			}
			var rows [][]string
			for _, c := range report.Checks {
				rows = append(rows, []string{c.Name, map[bool]string{true: "ok", false: "failing"}[c.OK], c.Detail, c.Fix})
			}
			return a.printer().table([]string{"CHECK", "STATE", "DETAIL", "FIX"}, rows)
		},
	})
	return cmd
}

func (a *app) audit() *cobra.Command {
	cmd := &cobra.Command{Use: "audit", Short: "Read the audit log and take proofs home"}
	var action, object, project, outcome string
	entries := &cobra.Command{
		Use: "list", Short: "List entries", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			query := filter("action", action, "object", object, "project", project, "outcome", outcome)
			return list(cmd.Context(), a, "/v1/audit/entries", query, []string{"INDEX", "AT", "ACTION", "OBJECT", "OUTCOME", "CODE"}, func(e entryView) []string {
				return []string{strconv.FormatInt(e.Index, 10), e.At.UTC().Format(time.RFC3339), e.Action, e.Object, e.Outcome, e.Code}
			})
		},
	}
	entries.Flags().StringVar(&action, "action", "", "only this action")
	entries.Flags().StringVar(&object, "object", "", "only this object, such as workspace/ID")
	entries.Flags().StringVar(&project, "project", "", "only this project's")
	entries.Flags().StringVar(&outcome, "outcome", "", "success, refused or failed")
	cmd.AddCommand(entries,
		a.fetch("checkpoint", "Print the newest signed checkpoint; keep it, it proves later that the log only grew", cobra.NoArgs,
			func([]string) (string, url.Values) { return "/v1/audit/checkpoint", nil }),
		a.fetch("receipt INDEX", "Print the proof that an entry is in the log, for siesta-verify", cobra.ExactArgs(1),
			func(args []string) (string, url.Values) {
				return "/v1/audit/entries/" + url.PathEscape(args[0]) + "/receipt", nil
			}),
		a.export())
	return cmd
}

// fetch prints a text as the server gives it.
func (a *app) fetch(use, short string, args cobra.PositionalArgs, where func([]string) (string, url.Values)) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: args,
		RunE: func(cmd *cobra.Command, args []string) error {
			service, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			path, query := where(args)
			body, err := service.call(cmd.Context(), http.MethodGet, path, query, nil)
			if err != nil {
				return err
			}
			_, err = a.out.Write(body)
			return err
		},
	}
}

func (a *app) export() *cobra.Command {
	return &cobra.Command{
		Use: "export FILE", Short: "Save the whole log for `siesta-verify log`", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			service, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			part := args[0] + ".part"
			f, err := os.OpenFile(part, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
			if err != nil {
				return fmt.Errorf("exporting: %w", err)
			}
			defer f.Close()
			if err := service.stream(cmd.Context(), "/v1/audit/export", nil, f); err != nil {
				return err
			}
			if err := f.Close(); err != nil {
				return fmt.Errorf("exporting: %w", err)
			}
			if err := os.Rename(part, args[0]); err != nil {
				return fmt.Errorf("exporting: %w", err)
			}
			fmt.Fprintf(a.err, "saved %s; check it with: siesta-verify log %s --key KEY\n", args[0], args[0])
			return nil
		},
	}
}
