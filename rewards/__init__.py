"""From replies to numbers: pure rules, and a grader that runs the costly ones in a process of its
own. No torch."""
