// Package expression evaluates expressions over an exchange, in CEL
// (https://cel.dev). An expression is compiled once: then its types are checked,
// and what it may cost at most is bounded, so that no request can make it cost more.
//
// variables.go has what an expression can ask for, by the names that templates
// have. A value is made only if the expression comes to ask for it.
package expression

import (
	"fmt"
	"math"
	"regexp"
	"strings"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/checker"
	"github.com/google/cel-go/common"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/ext"

	"github.com/headgate/headgate/dataplane/exchange"
)

const (
	// MaxLen bounds an expression's text, in bytes.
	MaxLen = 1024
	// maxCost bounds what an evaluation may cost at most, in CEL's units: about
	// one a step, and one for each ten characters that a step reads. That is about
	// a millisecond, of which most expressions need a thousandth.
	maxCost = 50_000
	// maxString and maxEntries are how long strings, and how large maps and lists
	// of a request are taken to be at most for that. Larger ones cost in proportion.
	maxString, maxEntries = 4096, 64
)

// Expression is a compiled expression whose result is a T. It is immutable and
// safe for concurrent use.
type Expression[T string | bool] struct {
	program cel.Program
}

// environment is what all expressions are compiled in. It takes a millisecond
// and some hundred KiB, so it is made when the first one is.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	options := []cel.EnvOption{
		cel.OptionalTypes(), ext.Strings(ext.StringsVersion(5)), ext.Encoders(ext.EncodersVersion(0)), ext.Network(),
		// What is parsed is short, so depth is what remains to be bounded.
		cel.ParserRecursionLimit(64),
	}
	for i := range variables {
		options = append(options, cel.Variable(variables[i].name, variables[i].kind))
	}
	return cel.NewEnv(options...)
})

// Compile reads an expression. The error says where it is wrong, as line and
// column, or why it may not be.
func Compile[T string | bool](text string) (*Expression[T], error) {
	var want *cel.Type
	switch any(*new(T)).(type) {
	case string:
		want = cel.StringType
	default:
		want = cel.BoolType
	}
	program, err := programs.get(programKey{text, want.String()}, func() (cel.Program, error) { return compile(text, want) })
	if err != nil {
		return nil, err
	}
	return &Expression[T]{program}, nil
}

// compile makes the program of an expression whose result is to be of a type.
func compile(text string, want *cel.Type) (cel.Program, error) {
	if len(text) > MaxLen {
		return nil, fmt.Errorf("it has %d bytes, of at most %d", len(text), MaxLen)
	}
	env, err := environment()
	if err != nil {
		return nil, err
	}
	ast, issues := env.Compile(text)
	if issues.Err() != nil {
		return nil, explain(text, issues.Errors()[0])
	}
	if !ast.OutputType().IsExactType(want) {
		return nil, fmt.Errorf("its result is %s, not %s", ast.OutputType(), want)
	}
	cost, err := env.EstimateCost(ast, sizes{})
	if err != nil {
		return nil, err
	}
	if cost.Max > maxCost {
		return nil, fmt.Errorf("it may cost %s steps, of at most %d", steps(cost.Max), maxCost)
	}
	return env.Program(ast, cel.EvalOptions(cel.OptOptimize)) // a regular expression may be none
}

// maxPrograms bounds the programs that are kept to be shared.
const maxPrograms = 1024

// programs are those that were compiled of late: a policy is compiled again with
// each change of what is around it, and its expression once more for each cluster.
var programs = &programCache{byKey: map[programKey]cel.Program{}}

type programCache struct {
	mu    sync.Mutex
	byKey map[programKey]cel.Program
}

type programKey struct{ text, result string }

func (c *programCache) get(key programKey, compile func() (cel.Program, error)) (cel.Program, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.byKey[key]; ok {
		return p, nil
	}
	p, err := compile()
	if err != nil {
		return nil, err
	}
	if len(c.byKey) == maxPrograms {
		clear(c.byKey)
	}
	c.byKey[key] = p
	return p, nil
}

func explain(text string, e *cel.Error) error {
	message, _, _ := strings.Cut(e.Message, " (in container '')")
	line, column := e.Location.Line(), max(e.Location.Column(), 0)
	if name, ok := strings.CutPrefix(message, undeclared); ok {
		// Of request.pth, the checker names request only.
		lines := strings.Split(text, "\n")
		if at := []rune(lines[min(max(line, 1), len(lines))-1]); column < len(at) {
			if whole := qualified.FindString(string(at[column:])); strings.HasPrefix(whole, strings.Trim(name, "'")+".") {
				message = undeclared + "'" + whole + "'"
			}
		}
	}
	return fmt.Errorf("%d:%d: %s", line, column+1, message)
}

const undeclared = "undeclared reference to "

var qualified = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*(\.[a-zA-Z_][a-zA-Z0-9_]*)*`)

func steps(n uint64) string {
	if n > 1e12 {
		return "any number of"
	}
	return fmt.Sprint(n)
}

// sizes is how large things may be, for the cost.
type sizes struct{}

func (sizes) EstimateSize(node checker.AstNode) *checker.SizeEstimate {
	switch node.Type().Kind() {
	case types.StringKind, types.BytesKind:
		return &checker.SizeEstimate{Max: maxString}
	case types.MapKind, types.ListKind:
		return &checker.SizeEstimate{Max: maxEntries}
	}
	return nil
}

// EstimateCallCost implements checker.CostEstimator for the functions whose costs
// CEL's libraries do not tell. All that makes a string longer must be among them:
// calls within calls would multiply it.
func (s sizes) EstimateCallCost(function, _ string, _ *checker.AstNode, args []checker.AstNode) *checker.CallEstimate {
	switch function {
	case "format", "strings.quote":
		return &checker.CallEstimate{CostEstimate: checker.CostEstimate{Max: math.MaxUint64}}
	case "base64.encode", "base64.decode":
		size := args[0].ComputedSize()
		if size == nil {
			size = s.EstimateSize(args[0])
		}
		long := size.MultiplyByCostFactor(1.4)
		return &checker.CallEstimate{
			CostEstimate: long.MultiplyByCostFactor(common.StringTraversalCostFactor),
			ResultSize:   &checker.SizeEstimate{Max: long.Max + 4},
		}
	}
	return nil
}

// Eval evaluates the expression over an exchange. request is what its variables
// of that name are about: ex.In as it was received, or ex.Out as it is sent. The
// error says what the exchange does not have that the expression asks for. A
// string is valid as long as the exchange's are.
func (e *Expression[T]) Eval(ex *exchange.Exchange, request *exchange.Request) (result T, err error) {
	in := inputs.Get().(*input)
	in.ex, in.request = ex, request
	value, _, err := e.program.Eval(in)
	in.ex, in.request = nil, nil
	inputs.Put(in)
	if err != nil {
		return result, err
	}
	result, ok := value.Value().(T)
	if !ok {
		return result, fmt.Errorf("its result is %s", value.Type().TypeName())
	}
	return result, nil
}

var inputs = sync.Pool{New: func() any { return newInput() }}
