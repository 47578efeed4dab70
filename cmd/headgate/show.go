package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/controllers/admin"
)

// showOptions are the flags of commands that print a running Headgate's state, or a folder's.
type showOptions struct {
	adminAddress string
	output       string
}

func (o *showOptions) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.adminAddress, "admin-address", defaultAdminAddress, "ask the Headgate with this admin `address`")
	cmd.Flags().StringVarP(&o.output, "output", "o", "table", "table, json or yaml")
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 {
			return usageError{fmt.Errorf("%s: want one folder or none, got %d", cmd.Name(), len(args))}
		}
		return nil
	}
}

func newRoutes(s streams) *cobra.Command {
	var o showOptions
	cmd := &cobra.Command{
		Use:   "routes [FOLDER]",
		Short: "Print what is routed where",
		Long: `Routes prints what a running Headgate routes where, or what it would route if
it served a folder. Matches are in the order in which they are tried: =/path is
exactly that path, /path/* it and all below, ~ a regular expression.`,
		Example: `  headgate routes
  headgate routes --admin-address 127.0.0.1:9911 -o json
  headgate routes ./shop`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var rows []admin.Route
			if len(args) == 1 {
				_, result, err := compileFolder(args[0])
				if err != nil {
					return err
				}
				rows = admin.Routes(result.Snapshot)
			} else if err := ask(cmd.Context(), o.adminAddress, "/routes", &rows); err != nil {
				return err
			}
			return show(s.out, o.output, rows, routesTable)
		},
	}
	o.register(cmd)
	return cmd
}

func newEndpoints(s streams) *cobra.Command {
	var o showOptions
	cmd := &cobra.Command{
		Use:   "endpoints [FOLDER]",
		Short: "Print the endpoints and how they are doing",
		Long: `Endpoints prints the endpoints of a running Headgate's clusters and how they
are doing, or those that a folder names.`,
		Example: `  headgate endpoints
  headgate endpoints ./shop -o json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var rows []admin.Endpoint
			if len(args) == 1 {
				_, result, err := compileFolder(args[0])
				if err != nil {
					return err
				}
				rows = admin.Endpoints(result.Snapshot)
			} else if err := ask(cmd.Context(), o.adminAddress, "/endpoints", &rows); err != nil {
				return err
			}
			return show(s.out, o.output, rows, endpointsTable)
		},
	}
	o.register(cmd)
	return cmd
}

func show[T any](w io.Writer, output string, rows []T, table func([]T) *table) error {
	if err := checkOutput(output, "table", "json", "yaml"); err != nil {
		return err
	}
	if output == "table" {
		return table(rows).write(w)
	}
	return write(w, output, rows)
}

func routesTable(rows []admin.Route) *table {
	t := newTable("LISTENER", "HOSTNAME", "MATCH", "ROUTE", "RULE", "FILTERS", "BACKENDS")
	for _, r := range rows {
		var backends []string
		for _, b := range r.Backends {
			name := b.Cluster
			if name == "" {
				name = "unresolved"
			}
			if len(r.Backends) > 1 {
				name += " ×" + strconv.FormatUint(uint64(b.Weight), 10)
			}
			backends = append(backends, name)
		}
		if r.Broken != "" {
			backends = []string{"500: " + r.Broken}
		}
		t.row(r.Listener, r.Hostname, admin.MatchText(r.Match), r.Route, r.Rule,
			strings.Join(r.Filters, ", "), strings.Join(backends, ", "))
	}
	return t
}

func endpointsTable(rows []admin.Endpoint) *table {
	t := newTable("CLUSTER", "ENDPOINT", "STATE", "TIER", "ZONE", "WEIGHT", "IN FLIGHT", "OF ALL", "REQUESTS", "FAILURES", "LATENCY", "FAILED CHECK")
	for _, r := range rows {
		tier := ""
		if r.Tier >= 0 {
			tier = strconv.Itoa(r.Tier)
		}
		weight := strconv.FormatUint(uint64(r.Weight), 10)
		if r.SharePercent < 100 {
			weight += fmt.Sprintf(" × %d%%", r.SharePercent)
		}
		inFlight := strconv.FormatInt(r.InFlight, 10)
		if r.MaxInFlight > 0 {
			inFlight += "/" + strconv.FormatInt(r.MaxInFlight, 10)
		}
		ofAll := "" // of the cluster, if it is bounded
		if b := r.CircuitBreaker; b != nil && b.MaxInFlight > 0 {
			ofAll = fmt.Sprintf("%d/%d", b.InFlight, b.MaxInFlight)
		}
		t.row(r.Cluster, r.Address, r.State, tier, r.Zone, weight,
			inFlight, ofAll,
			strconv.FormatUint(r.Requests, 10),
			strconv.FormatUint(r.Failures, 10),
			r.Latency.Round(10*time.Microsecond).String(),
			r.CheckFailure)
	}
	return t
}

// ask gets a page of a running Headgate's admin address.
func ask(ctx context.Context, address, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if strings.HasPrefix(address, ":") {
		address = "127.0.0.1" + address
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return usageError{fmt.Errorf("--admin-address %q: want host:port", address)}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("no Headgate answers at %s (%w): want the --admin-address of one that runs, or a folder", address, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("http://%s%s answers %s: want the --admin-address of a Headgate", address, path, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}
