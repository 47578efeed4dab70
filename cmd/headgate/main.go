// Command headgate is the API gateway and load balancer: controllers and data
// plane in one process. See headgate --help.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker: -X main.version=v1.2.3.
var version = ""

// Exit codes.
const (
	exitOK    = 0
	exitFault = 1 // it failed, or check found something
	exitUsage = 2 // it was called wrongly
)

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	os.Exit(run(context.Background(), os.Args[1:], streams{os.Stdout, os.Stderr}, signals))
}

// streams are where a command writes.
type streams struct{ out, err io.Writer }

// run runs a command line and returns its exit code. The first signal asks it
// to finish, a second one to stop at once.
func run(ctx context.Context, args []string, s streams, signals <-chan os.Signal) int {
	root := newRoot(s, signals)
	root.SetArgs(args)
	root.SetOut(s.out)
	root.SetErr(s.err)
	err := root.ExecuteContext(ctx)
	var (
		usage usageError
		quiet quietError
	)
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &quiet):
		return exitFault
	case errors.As(err, &usage):
		fmt.Fprintf(s.err, "headgate: %v\nSee headgate --help.\n", err)
		return exitUsage
	}
	fmt.Fprintf(s.err, "headgate: %v\n", err)
	return exitFault
}

// usageError is a command line that makes no sense.
type usageError struct{ error }

// quietError is a failure that was already told.
type quietError struct{ error }

func newRoot(s streams, signals <-chan os.Signal) *cobra.Command {
	o := newServeOptions()
	root := &cobra.Command{
		Use:   "headgate",
		Short: "API gateway and load balancer",
		Long: `Headgate is an API gateway and load balancer for the Kubernetes Gateway API.

Without a subcommand it serves: the manifests of a folder with --manifests,
or else those of the Kubernetes cluster that it runs in or that KUBECONFIG names.`,
		Example: `  # Serve a folder of Gateway API manifests, and follow its changes.
  headgate --manifests ./shop

  # The same on one address, with an access log.
  headgate --manifests ./shop --bind-address 192.0.2.1 --access-log json

  # See what is wrong in a folder before it serves.
  headgate check ./shop

  # See what a running Headgate routes where.
  headgate routes
  headgate endpoints`,
		Version:       versionLine(),
		Args:          noArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.shutdownDelaySet = cmd.Flags().Changed("shutdown-delay")
			return serve(cmd.Context(), o, s, signals)
		},
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetHelpCommand(&cobra.Command{Hidden: true})
	o.register(root.Flags())
	root.AddCommand(newCheck(s), newRoutes(s), newEndpoints(s))
	return root
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return usageError{fmt.Errorf("unknown command %q: want one of %s, or none to serve", args[0], strings.Join(names, ", "))}
}

// versionLine is what --version prints.
func versionLine() string {
	v, revision := version, ""
	if info, ok := debug.ReadBuildInfo(); ok {
		if v == "" {
			v = info.Main.Version
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = " " + s.Value[:min(len(s.Value), 12)]
			}
		}
	}
	if v == "" || v == "(devel)" {
		v = "devel"
	}
	return fmt.Sprintf("headgate %s%s %s %s/%s", v, revision, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// shortVersion is the version alone, for metrics and pages.
func shortVersion() string { return strings.Fields(versionLine())[1] }
