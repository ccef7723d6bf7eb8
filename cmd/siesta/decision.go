package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"
)

type decisionView struct {
	ID         string      `json:"id"`
	Workspace  string      `json:"workspace"`
	Site       string      `json:"site"`
	Purpose    string      `json:"purpose"`
	Outcome    string      `json:"outcome"`
	Code       string      `json:"code"`
	TEE        string      `json:"tee"`
	At         time.Time   `json:"at"`
	Lease      string      `json:"lease"`
	Evidence   string      `json:"evidence"`
	Policy     string      `json:"policy"`
	Collateral string      `json:"collateral"`
	Checks     []checkView `json:"checks"`
}

type checkView struct {
	Name     string `json:"name"`
	Status   string `json:"status"`
	Code     string `json:"code"`
	Expected string `json:"expected"`
	Got      string `json:"got"`
	Source   string `json:"source"`
	Section  string `json:"section"`
	Advice   string `json:"advice"`
}

func (a *app) decision() *cobra.Command {
	cmd := &cobra.Command{Use: "decision", Short: "Read what the broker decided, and why"}
	var workspace, code, outcome, since, until string
	decisions := &cobra.Command{Use: "list", Short: "List decisions, newest first", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		query := filter("workspace", workspace, "code", code, "outcome", outcome)
		for name, text := range map[string]string{"since": since, "until": until} {
			if text == "" {
				continue
			}
			at, err := parseSince(name, text, time.Now())
			if err != nil {
				return err
			}
			query.Set(name, at.UTC().Format(time.RFC3339))
		}
		return list(cmd.Context(), a, "/v1/decisions", query, []string{"ID", "AT", "WORKSPACE", "SITE", "PURPOSE", "OUTCOME", "CODE"}, func(v decisionView) []string {
			return []string{v.ID, v.At.UTC().Format(time.RFC3339), v.Workspace, v.Site, v.Purpose, v.Outcome, v.Code}
		})
	}}
	decisions.Flags().StringVar(&workspace, "workspace", "", "only this workspace's")
	decisions.Flags().StringVar(&code, "code", "", "only refusals with this code")
	decisions.Flags().StringVar(&outcome, "outcome", "", "released, renewed, attested or refused")
	decisions.Flags().StringVar(&since, "since", "", "30d, 12h, or a date YYYY-MM-DD")
	decisions.Flags().StringVar(&until, "until", "", "likewise, with that whole day")
	cmd.AddCommand(decisions, a.showOne("Show a decision with every check", "/v1/decisions/%s", printDecision), a.bundle())
	return cmd
}

func printDecision(p printer, body []byte) error {
	if p.json {
		return p.raw(body)
	}
	var v decisionView
	if err := json.Unmarshal(body, &v); err != nil {
		return fmt.Errorf("unexpected answer: %w", err)
	}
	if err := p.fields("id", v.ID, "at", v.At.UTC().Format(time.RFC3339), "workspace", v.Workspace, "site", v.Site, "purpose", v.Purpose,
		"outcome", word(v.Outcome, v.Code), "tee", v.TEE, "lease", v.Lease, "evidence", v.Evidence, "policy", v.Policy, "collateral", v.Collateral); err != nil {
		return err
	}
	fmt.Fprintln(p.out)
	var rows [][]string
	for _, c := range v.Checks {
		expected, got := c.Expected, c.Got
		if c.Status != "failed" { // where two ids differ may be at their ends
			expected, got = short(expected), short(got)
		}
		rows = append(rows, []string{c.Name, c.Status, expected, got, c.Section, c.Advice})
	}
	return p.table([]string{"CHECK", "STATUS", "EXPECTED", "GOT", "SECTION", "ADVICE"}, rows)
}

func (a *app) bundle() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use: "bundle ID", Short: "Save everything that a decision rests on, for `siesta-verify decision`", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			service, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			body, err := service.call(cmd.Context(), http.MethodGet, "/v1/decisions/"+url.PathEscape(args[0])+"/bundle", nil, nil)
			if err != nil {
				return err
			}
			if out == "" {
				_, err = a.out.Write(append(body, '\n'))
				return err
			}
			// Evidence is not for everybody on this machine.
			if err := os.WriteFile(out, body, 0o600); err != nil {
				return fmt.Errorf("saving the bundle: %w", err)
			}
			fmt.Fprintf(a.err, "saved %s; replay it with: siesta-verify decision %s\n", out, out)
			return nil
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "file to write; standard output if left out")
	return cmd
}
