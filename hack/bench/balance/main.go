// Command balance simulates the balancing algorithms and prints how they do: how
// evenly requests are spread, how long they take, and how many keys move when
// endpoints come and go, each beside the ideal. Time is simulated, so it takes
// seconds and any machine will do.
//
//	go run ./hack/bench/balance
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"text/tabwriter"

	"github.com/headgate/headgate/dataplane/balance"
)

func main() {
	requests := flag.Int("requests", 200_000, "how many requests each simulation has")
	flag.Parse()
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, s := range scenarios(*requests) {
		fmt.Fprintf(out, "\n%s\n\n", s.name)
		fmt.Fprintln(out, "algorithm\tmost / mean\tp50 ms\tp99 ms\tp99.9 ms\t  p99")
		for _, name := range append([]string{ideal}, s.algorithms...) {
			r := s.run(name)
			fmt.Fprintf(out, "%s\t%.2f\t%.1f\t%.1f\t%.1f\t  %s\n", name, r.spread(), r.percentile(50), r.percentile(99), r.percentile(99.9), bar(r.percentile(99)))
		}
		out.Flush()
	}
	fmt.Fprintf(out, "\nkeys that move, in percent, when one endpoint goes or one more comes\n\n")
	fmt.Fprintln(out, "algorithm\tendpoints\tgoes\tcomes\tideal\tmost / mean\t")
	for _, name := range []string{"IPHash", "RingHash", "Maglev"} {
		for _, n := range []int{10, 100, 1000} {
			goes, comes, spread := disruption(name, n, 200_000)
			fmt.Fprintf(out, "%s\t%d\t%.2f\t%.2f\t%.2f\t%.2f\t\n", name, n, goes*100, comes*100, 100/float64(n), spread)
		}
	}
	out.Flush()
}

// bar draws a time in milliseconds, 10 ms a block.
func bar(ms float64) string {
	const most = 40
	blocks := []rune{}
	for range min(int(ms/10), most) {
		blocks = append(blocks, '█')
	}
	if int(ms/10) > most {
		blocks = append(blocks, '…')
	}
	return string(blocks)
}

// members are n endpoints of one weight.
func members(n int) []balance.Member {
	list := make([]balance.Member, n)
	for i := range list {
		list[i] = balance.Member{ID: fmt.Sprintf("10.0.%d.%d:8080", i/250, i%250+1), Load: new(balance.Load)}
	}
	return list
}

func picker(c balance.Config, members []balance.Member) balance.Picker {
	p, err := balance.New(c, members)
	if err != nil {
		panic(err)
	}
	return p
}

// disruption returns the part of the keys that move when one of n endpoints
// goes, and when there is one more; and how uneven the keys are.
func disruption(algorithm string, n, keys int) (goes, comes, spread float64) {
	all := members(n + 1)
	more, whole, less := picker(balance.Config{Algorithm: algorithm}, all),
		picker(balance.Config{Algorithm: algorithm}, all[:n]), picker(balance.Config{Algorithm: algorithm}, all[:n-1])
	counts := make([]int, n)
	for k := range keys {
		c := balance.Choice{Hash: balance.HashString(fmt.Sprint("key ", k))}
		i := whole.Pick(c)
		counts[i]++
		if less.Pick(c) != i {
			goes += 1 / float64(keys)
		}
		if more.Pick(c) != i {
			comes += 1 / float64(keys)
		}
	}
	return goes, comes, float64(slices.Max(counts)) * float64(n) / float64(keys)
}
