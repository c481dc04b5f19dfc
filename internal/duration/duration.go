// Package duration refuses options of type [time.Duration] that were written without a
// unit.
package duration

import (
	"fmt"
	"reflect"
	"time"
)

// Least is the shortest positive duration of an option.
const Least = time.Millisecond

var durationType = reflect.TypeFor[time.Duration]()

// Check returns an error if an exported field of type time.Duration is above zero and
// below [Least]. options is a pointer to a struct; Check does not look into nested
// structs. name is the name of the struct in the error.
func Check(name string, options any) error {
	v := reflect.ValueOf(options).Elem()
	for i := range v.NumField() {
		field := v.Field(i)
		if field.Kind() != reflect.Int64 || field.Type() != durationType {
			continue
		}
		d := time.Duration(field.Int())
		if d <= 0 || d >= Least || !v.Type().Field(i).IsExported() {
			continue
		}
		return fmt.Errorf("%s.%s is %v: %s", name, v.Type().Field(i).Name, d, Advice(d))
	}
	return nil
}

// CheckServer resolves the options of an *rpcx.Server, and returns an error if the options
// are invalid. Package rpcx sets CheckServer, for the other packages of this module.
var CheckServer func(server any) error

// Advice returns the advice for a duration above zero and below [Least], otherwise "". A
// number below a thousand was most likely meant as seconds.
func Advice(d time.Duration) string {
	if d <= 0 || d >= Least {
		return ""
	}
	if d < time.Microsecond {
		return fmt.Sprintf("write %d*time.Second", d)
	}
	return fmt.Sprintf("a duration is at least %v, with its unit, such as 30*time.Second", Least)
}
