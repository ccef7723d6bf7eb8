package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

type policyView struct {
	ID          string          `json:"id"`
	Kind        string          `json:"kind"`
	Scope       string          `json:"scope"`
	Version     int             `json:"version"`
	SHA256      string          `json:"sha256"`
	Document    json.RawMessage `json:"document"`
	Note        string          `json:"note"`
	State       string          `json:"state"`
	CreatedBy   string          `json:"created_by"`
	ProposedBy  string          `json:"proposed_by"`
	ActivatedBy string          `json:"activated_by"`
	RetiringBy  string          `json:"retiring_by"`
	RetiredBy   string          `json:"retired_by"`
}

type policyTestView struct {
	Judged        int  `json:"judged"`
	NotReplayable int  `json:"not_replayable"`
	Bare          int  `json:"without_evidence"`
	Truncated     bool `json:"truncated"`
	Changes       []struct {
		Decision  string    `json:"decision"`
		Workspace string    `json:"workspace"`
		At        time.Time `json:"at"`
		Was       string    `json:"was"`
		WasCode   string    `json:"was_code"`
		Becomes   string    `json:"becomes"`
		Code      string    `json:"code"`
		Check     string    `json:"check"`
		Expected  string    `json:"expected"`
		Got       string    `json:"got"`
	} `json:"changes"`
}

var showPolicy = show(func(v policyView) []string {
	return []string{
		"id", v.ID, "scope", v.Kind + " " + v.Scope, "version", strconv.Itoa(v.Version), "state", v.State, "sha256", v.SHA256, "note", v.Note,
		"created by", v.CreatedBy, "proposed by", v.ProposedBy, "activated by", v.ActivatedBy, "end asked by", v.RetiringBy, "retired by", v.RetiredBy,
		"document", string(v.Document),
	}
})

func (a *app) policy() *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "Write attestation policies, test them on past decisions, put them into force"}
	var site, project, note, state, since, until string
	create := &cobra.Command{
		Use: "create FILE", Short: "Write a draft for a site or a project", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, scope, err := scopeOf(site, project)
			if err != nil {
				return err
			}
			if kind == "" {
				return errors.New("say what it is for: give --site or --project")
			}
			document, err := readJSON("the document", args[0])
			if err != nil {
				return err
			}
			return a.post(cmd.Context(), "/v1/policies", map[string]any{"kind": kind, "scope": scope, "document": document, "note": note}, showPolicy)
		},
	}
	create.Flags().StringVar(&site, "site", "", "site that it is for")
	create.Flags().StringVar(&project, "project", "", "project that it is for")
	create.Flags().StringVar(&note, "note", "", "why; kept with the version")
	require(create, "note")
	versions := &cobra.Command{Use: "list", Short: "List versions, newest first", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		kind, scope, err := scopeOf(site, project)
		if err != nil {
			return err
		}
		return list(cmd.Context(), a, "/v1/policies", filter("kind", kind, "scope", scope, "state", state),
			[]string{"ID", "SCOPE", "VERSION", "STATE", "SHA256", "NOTE"}, func(v policyView) []string {
				return []string{v.ID, v.Kind + "/" + v.Scope, strconv.Itoa(v.Version), v.State, clipped(v.SHA256, 16), v.Note}
			})
	}}
	versions.Flags().StringVar(&site, "site", "", "only this site's")
	versions.Flags().StringVar(&project, "project", "", "only this project's")
	versions.Flags().StringVar(&state, "state", "", "draft, proposed, active or retired")
	test := &cobra.Command{
		Use: "test DRAFT", Short: "Judge the decisions of a period again under a version, and list those that would change", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			body := map[string]any{}
			for name, text := range map[string]string{"since": since, "until": until} {
				if text == "" {
					continue
				}
				at, err := parseSince(name, text, time.Now())
				if err != nil {
					return err
				}
				body[name] = at
			}
			return a.post(cmd.Context(), "/v1/policies/"+url.PathEscape(args[0])+"/test", body, printPolicyTest)
		},
	}
	test.Flags().StringVar(&since, "since", "30d", "30d, 12h, or a date YYYY-MM-DD")
	test.Flags().StringVar(&until, "until", "", "likewise, with that whole day; now if left out")
	cmd.AddCommand(create, versions, test,
		a.showOne("Show a version with its document", "/v1/policies/%s", showPolicy),
		a.act("propose ID", "Ask others to activate a draft", "/v1/policies/%s/propose", showPolicy),
		a.act("activate ID", "Put a proposed version into force; never by who wrote or proposed it", "/v1/policies/%s/activate", showPolicy),
		a.act("retire ID", "End a version; one in force ends when a second person says so, too", "/v1/policies/%s/retire", showPolicy))
	return cmd
}

func scopeOf(site, project string) (kind, scope string, err error) {
	switch {
	case site != "" && project != "":
		return "", "", errors.New("give --site or --project, not both")
	case site != "":
		return "site", site, nil
	case project != "":
		return "project", project, nil
	}
	return "", "", nil
}

func printPolicyTest(p printer, body []byte) error {
	if p.json {
		return p.raw(body)
	}
	var v policyTestView
	if err := json.Unmarshal(body, &v); err != nil {
		return fmt.Errorf("unexpected answer: %w", err)
	}
	var rows [][]string
	for _, c := range v.Changes {
		rows = append(rows, []string{c.At.UTC().Format(time.RFC3339), c.Decision, c.Workspace, word(c.Was, c.WasCode), word(c.Becomes, c.Code), c.Check, c.Expected, c.Got})
	}
	if len(rows) > 0 {
		if err := p.table([]string{"AT", "DECISION", "WORKSPACE", "WAS", "BECOMES", "CHECK", "EXPECTED", "GOT"}, rows); err != nil {
			return err
		}
	}
	fmt.Fprintf(p.out, "%d of %d decisions would change; %d could not be judged again; %d more had no evidence\n", len(v.Changes), v.Judged, v.NotReplayable, v.Bare)
	if v.Truncated {
		fmt.Fprintln(p.out, "there were more than one test looks at: narrow the period")
	}
	return nil
}

func word(outcome, code string) string {
	if code == "" {
		return outcome
	}
	return outcome + " (" + code + ")"
}

func clipped(s string, n int) string { return s[:min(len(s), n)] }

// parseSince reads 30d, 12h, 2026-11-01 or an RFC 3339 time. A day belongs to the period, also to one that it ends.
func parseSince(flag, text string, now time.Time) (time.Time, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n >= 0 && n < 100_000 {
			return now.AddDate(0, 0, -n), nil
		}
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	if day, err := time.Parse(time.DateOnly, text); err == nil {
		if flag == "until" {
			return day.AddDate(0, 0, 1), nil
		}
		return day, nil
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, nil
	}
	return time.Time{}, fmt.Errorf("--%s %q: write 30d, 12h, YYYY-MM-DD or an RFC 3339 time", flag, text)
}

// showOne makes a command that shows one object.
func (a *app) showOne(short, path string, show func(printer, []byte) error) *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			service, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			body, err := service.call(cmd.Context(), http.MethodGet, fmt.Sprintf(path, url.PathEscape(args[0])), nil, nil)
			if err != nil {
				return err
			}
			return show(a.printer(), body)
		},
	}
}
