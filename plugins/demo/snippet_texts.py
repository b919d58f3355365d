"""Texts of the classic functions: about, docstring, choices of names, source."""

from __future__ import annotations

__all__ = ("SNIPPETS",)

SNIPPETS = """\
finds a value in a sorted list by halving
Return the index of a value in a sorted list, or -1.
f: binary_search bisect_search search_sorted find_index
x: items values numbers data arr nums
y: target value key wanted item
l: low left lo start
h: high right hi end
m: middle mid
---
def $f($x, $y):
    $l = 0
    $h = len($x) - 1
    while $l <= $h:
        $m = ($l + $h) // 2
        if $x[$m] == $y:
            return $m
        if $x[$m] < $y:
            $l = $m + 1
        else:
            $h = $m - 1
    return -1
===
returns the nth Fibonacci number
Return the nth Fibonacci number.
f: fibonacci fib nth_fibonacci fibonacci_number
x: n count index k
---
def $f($x):
    a, b = 0, 1
    for _ in range($x):
        a, b = b, a + b
    return a
===
returns the first n Fibonacci numbers
Return a list of the first Fibonacci numbers.
f: fibonacci_list fibonacci_sequence first_fibonacci fib_list
x: n count length
y: result numbers sequence
---
def $f($x):
    $y = []
    a, b = 0, 1
    while len($y) < $x:
        $y.append(a)
        a, b = b, a + b
    return $y
===
computes the factorial of a number
Return the factorial of a number.
f: factorial fact compute_factorial
x: n number k
y: result product total
---
def $f($x):
    $y = 1
    for i in range(2, $x + 1):
        $y *= i
    return $y
===
computes the factorial of a number recursively
Return the factorial of a number.
f: recursive_factorial factorial_recursive factorial_rec
x: n number k
---
def $f($x):
    if $x <= 1:
        return 1
    return $x * $f($x - 1)
===
tells whether a number is prime
Return True if the number is prime.
f: is_prime prime check_prime is_prime_number
x: n number value k
y: divisor i d factor
---
def $f($x):
    if $x < 2:
        return False
    $y = 2
    while $y * $y <= $x:
        if $x % $y == 0:
            return False
        $y += 1
    return True
===
lists the primes up to a limit
Return all primes up to a limit.
f: sieve primes_up_to primes list_primes
x: limit n maximum
y: is_prime flags marks
---
def $f($x):
    $y = [True] * ($x + 1)
    primes = []
    for number in range(2, $x + 1):
        if $y[number]:
            primes.append(number)
            for multiple in range(number * number, $x + 1, number):
                $y[multiple] = False
    return primes
===
returns the greatest common divisor of two numbers
Return the greatest common divisor of two numbers.
f: gcd greatest_common_divisor common_divisor
x: a x m first
y: b y n second
---
def $f($x, $y):
    while $y:
        $x, $y = $y, $x % $y
    return $x
===
sorts a list with bubble sort
Sort a list in place with bubble sort.
f: bubble_sort bubblesort sort_bubble
x: items values numbers data arr
n: n length size
---
def $f($x):
    $n = len($x)
    for i in range($n):
        for j in range($n - i - 1):
            if $x[j] > $x[j + 1]:
                $x[j], $x[j + 1] = $x[j + 1], $x[j]
    return $x
===
sorts a list with insertion sort
Sort a list in place with insertion sort.
f: insertion_sort insertionsort sort_insertion
x: items values numbers data arr
y: current value key item
---
def $f($x):
    for i in range(1, len($x)):
        $y = $x[i]
        j = i - 1
        while j >= 0 and $x[j] > $y:
            $x[j + 1] = $x[j]
            j -= 1
        $x[j + 1] = $y
    return $x
===
sorts a list with selection sort
Sort a list in place with selection sort.
f: selection_sort selectionsort sort_selection
x: items values numbers data arr
y: smallest lowest minimum
---
def $f($x):
    for i in range(len($x)):
        $y = i
        for j in range(i + 1, len($x)):
            if $x[j] < $x[$y]:
                $y = j
        $x[i], $x[$y] = $x[$y], $x[i]
    return $x
===
sorts a list with quicksort
Return a sorted copy of a list.
f: quicksort quick_sort sort_quick qsort
x: items values numbers data arr
p: pivot middle
---
def $f($x):
    if len($x) <= 1:
        return $x
    $p = $x[len($x) // 2]
    smaller = [item for item in $x if item < $p]
    equal = [item for item in $x if item == $p]
    larger = [item for item in $x if item > $p]
    return $f(smaller) + equal + $f(larger)
===
sorts a list with merge sort
Return a sorted copy of a list.
f: merge_sort mergesort sort_merge
x: items values numbers data arr
r: result merged output
---
def $f($x):
    if len($x) <= 1:
        return $x
    middle = len($x) // 2
    left = $f($x[:middle])
    right = $f($x[middle:])
    $r = []
    i = j = 0
    while i < len(left) and j < len(right):
        if left[i] <= right[j]:
            $r.append(left[i])
            i += 1
        else:
            $r.append(right[j])
            j += 1
    return $r + left[i:] + right[j:]
===
searches a list from front to back
Return the index of a value in a list, or -1.
f: linear_search find_item index_of search
x: items values numbers data arr
y: target value key wanted
---
def $f($x, $y):
    for index, item in enumerate($x):
        if item == $y:
            return index
    return -1
===
reverses a string
Return the string backwards.
f: reverse_string reverse_text backwards reversed_string
x: text string s word
---
def $f($x):
    return $x[::-1]
===
tells whether a text is a palindrome
Return True if the text reads the same backwards.
f: is_palindrome palindrome check_palindrome
x: text string s word
y: cleaned letters normal
---
def $f($x):
    $y = [char.lower() for char in $x if char.isalnum()]
    return $y == $y[::-1]
===
counts the vowels in a text
Return the number of vowels in a text.
f: count_vowels vowels number_of_vowels
x: text string s word
---
def $f($x):
    return sum(1 for char in $x.lower() if char in "aeiou")
===
counts the words of a text
Return how often each word occurs.
f: count_words word_count word_frequencies count_each_word
x: text string sentence line
y: counts result frequencies
---
def $f($x):
    $y = {}
    for word in $x.lower().split():
        $y[word] = $y.get(word, 0) + 1
    return $y
===
counts how often each character occurs
Return how often each character occurs.
f: count_chars char_count count_characters letter_counts
x: text string s word
y: counts result frequencies
---
def $f($x):
    $y = {}
    for char in $x:
        $y[char] = $y.get(char, 0) + 1
    return $y
===
tells whether two words are anagrams
Return True if both words have the same letters.
f: is_anagram are_anagrams anagrams
x: first a left word
y: second b right other
---
def $f($x, $y):
    return sorted($x.lower()) == sorted($y.lower())
===
returns the largest number of a list
Return the largest number of a list.
f: find_max maximum largest max_value
x: items values numbers data
y: best largest_so_far highest
---
def $f($x):
    $y = $x[0]
    for item in $x[1:]:
        if item > $y:
            $y = item
    return $y
===
returns the smallest number of a list
Return the smallest number of a list.
f: find_min minimum smallest min_value
x: items values numbers data
y: best smallest_so_far lowest
---
def $f($x):
    $y = $x[0]
    for item in $x[1:]:
        if item < $y:
            $y = item
    return $y
===
adds up a list of numbers
Return the sum of the numbers.
f: sum_list add_all total_of sum_numbers
x: items values numbers data
y: total result amount
---
def $f($x):
    $y = 0
    for item in $x:
        $y += item
    return $y
===
returns the average of a list of numbers
Return the mean of the numbers, or 0 for none.
f: average mean average_of compute_mean
x: items values numbers data
---
def $f($x):
    if not $x:
        return 0
    return sum($x) / len($x)
===
returns the median of a list of numbers
Return the middle value of the numbers.
f: median median_of compute_median
x: items values numbers data
---
def $f($x):
    ordered = sorted($x)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2
===
removes duplicates while keeping the order
Return the items without duplicates, in order.
f: remove_duplicates unique deduplicate unique_items
x: items values numbers data
y: seen known found
---
def $f($x):
    $y = set()
    result = []
    for item in $x:
        if item not in $y:
            $y.add(item)
            result.append(item)
    return result
===
flattens a nested list
Return a flat list of all nested items.
f: flatten flatten_list flat
x: items nested values data
y: result flat_items output
---
def $f($x):
    $y = []
    for item in $x:
        if isinstance(item, list):
            $y.extend($f(item))
        else:
            $y.append(item)
    return $y
===
splits a list into chunks
Return the items in chunks of a given size.
f: chunk chunks split_list batched
x: items values data sequence
y: size n length
---
def $f($x, $y):
    return [$x[i:i + $y] for i in range(0, len($x), $y)]
===
tells whether a number is even
Return True if the number is even.
f: is_even even check_even
x: n number value
---
def $f($x):
    return $x % 2 == 0
===
adds two numbers
Return the sum of two numbers.
f: add add_numbers plus
x: a x first left
y: b y second right
---
def $f($x, $y):
    return $x + $y
===
converts Celsius to Fahrenheit
Convert a temperature from Celsius to Fahrenheit.
f: celsius_to_fahrenheit to_fahrenheit c_to_f
x: celsius degrees temperature
---
def $f($x):
    return $x * 9 / 5 + 32
===
reads the lines of a file
Return the lines of a text file.
f: read_lines load_lines file_lines
x: path filename name
---
def $f($x):
    with open($x, encoding="utf-8") as file:
        return [line.rstrip("\\n") for line in file]
===
reads a JSON file
Return the contents of a JSON file.
f: read_json load_json parse_json_file
x: path filename name
---
def $f($x):
    with open($x, encoding="utf-8") as file:
        return json.load(file)
===
returns FizzBuzz up to a number
Return the FizzBuzz words up to a number.
f: fizzbuzz fizz_buzz play_fizzbuzz
x: n limit count
---
def $f($x):
    result = []
    for i in range(1, $x + 1):
        if i % 15 == 0:
            result.append("FizzBuzz")
        elif i % 3 == 0:
            result.append("Fizz")
        elif i % 5 == 0:
            result.append("Buzz")
        else:
            result.append(str(i))
    return result
===
raises a number to a power by squaring
Return a number raised to a whole power.
f: power fast_power int_pow
x: base x number
y: exponent n power_of
---
def $f($x, $y):
    result = 1
    while $y > 0:
        if $y % 2:
            result *= $x
        $x *= $x
        $y //= 2
    return result
===
adds up the digits of a number
Return the sum of a number's digits.
f: digit_sum sum_digits sum_of_digits
x: n number value
---
def $f($x):
    return sum(int(digit) for digit in str(abs($x)))
===
merges two sorted lists
Return one sorted list of two sorted lists.
f: merge merge_sorted merge_lists
x: left first a
y: right second b
---
def $f($x, $y):
    result = []
    i = j = 0
    while i < len($x) and j < len($y):
        if $x[i] <= $y[j]:
            result.append($x[i])
            i += 1
        else:
            result.append($y[j])
            j += 1
    return result + $x[i:] + $y[j:]
===
turns a word list into a title
Return the words joined, each with a capital letter.
f: make_title title_case capitalize_words
x: words parts names
---
def $f($x):
    return " ".join(word.capitalize() for word in $x)
"""
