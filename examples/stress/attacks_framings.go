package main

// framingsAttacks lists attacks on the framings by JSON values, headers and lengths.
var framingsAttacks = []attack{
	{
		class: class{name: "endless nesting", count: 4, over: overJSON, use: pours(repeat("["))},
		shows: "a value without an end is dropped as it arrives",
		like:  large,
	},
	{
		class: class{name: "endless string", count: 4, over: overJSON, use: beginsAndPours(`{"method":"`, repeat(`\u0041`))},
		shows: "a string without an end is dropped as it arrives",
		like:  large,
	},
	{
		class: class{name: "endless headers", count: 4, over: overHeaders, use: pours(repeat("X-Name: value\r\n"))},
		shows: "headers without an end are an error after 4,096 bytes",
		like:  large,
	},
	{
		class: class{name: "false content lengths", count: 200, over: overHeaders, use: stays(just("Content-Length: 999999999999\r\n\r\n"))},
		shows: "no memory is taken for what a header announces",
		like:  tiny,
	},
	{
		class: class{name: "false lengths", count: 200, over: overLengths, use: stays(just("\x00\x0f\x00\x00x"))},
		shows: "no memory is taken for what a length announces",
		like:  tiny,
	},
	{
		class: class{name: "false lengths of 4 GiB", count: 4, over: overLengths, use: beginsAndPours("\xff\xff\xff\xff", repeat("x"))},
		shows: "a message that is too large is dropped as it arrives",
		like:  large,
	},
}
