package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
)

// page is the shape of every list: items, and where the next page begins.
type page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next"`
	// LeftOut is how many more there are, of a list that has no further page.
	LeftOut int `json:"left_out"`
}

// leftOut says what a list does not show, beside it: what reads the list reads the same as ever.
func (a *app) leftOut(n int) {
	if n > 0 {
		fmt.Fprintf(a.err, "%d more are left out\n", n)
	}
}

// list reads all pages of a collection and prints them as one table, or as one JSON array.
func list[T any](ctx context.Context, a *app, path string, query url.Values, heading []string, row func(T) []string) error {
	service, err := a.connect(ctx)
	if err != nil {
		return err
	}
	var rows [][]string
	all := []json.RawMessage{}
	for {
		p, _, err := get[page[json.RawMessage]](ctx, service, path, query)
		if err != nil {
			return err
		}
		if p.Items == nil { // an empty list is one, too; another answer must not look like it
			return fmt.Errorf("GET %s: what answered is not siestad\n  next: see that %s is its address (--server, SIESTA_SERVER)", path, service.server)
		}
		for _, item := range p.Items {
			var v T
			if err := json.Unmarshal(item, &v); err != nil {
				return err
			}
			rows, all = append(rows, row(v)), append(all, item)
		}
		if p.Next == "" {
			a.leftOut(p.LeftOut)
			break
		}
		query.Set("cursor", p.Next)
	}
	if a.printer().json {
		body, err := json.Marshal(all)
		if err != nil {
			return err
		}
		return a.printer().raw(body)
	}
	return a.printer().table(heading, rows)
}

// filter makes a query of the pairs whose value is not empty.
func filter(pairs ...string) url.Values {
	query := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			query.Set(pairs[i], pairs[i+1])
		}
	}
	return query
}
